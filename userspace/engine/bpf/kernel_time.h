#pragma once

#include <cstdint>

namespace echion::engine {

/// A time by the kernel's own monotonic clock, as BPF programs note it, in that of this process,
/// which a time namespace (time_namespaces(7)) puts `ahead_ns` ahead of it. Here, where the
/// programs' notes are read, and nowhere else, the one becomes the other. 0, which is no time,
/// stays what it is; what was before this clock began is its first nanosecond.
inline std::uint64_t to_own_time(std::uint64_t kernel_ns, std::int64_t ahead_ns) {
    if (kernel_ns == 0) {
        return 0;
    }
    const std::uint64_t own_ns = kernel_ns + static_cast<std::uint64_t>(ahead_ns);
    const bool is_before = ahead_ns < 0 && own_ns >= kernel_ns;
    return is_before || own_ns == 0 ? 1 : own_ns;
}

}  // namespace echion::engine
