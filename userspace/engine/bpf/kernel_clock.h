#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace echion::engine {

/// BPF programs keep time by the kernel's own monotonic clock; a process in a time namespace
/// (time_namespaces(7)) reads CLOCK_MONOTONIC with an offset. Who reads the programs' times has to
/// know it (engine/bpf/kernel_time.h).

/// By how much the clock of process `pid` is ahead of the kernel's, in nanoseconds; or why that
/// cannot be known. Reads /proc. 0 also for a process that is not there.
tl::expected<std::int64_t, std::string> find_clock_ahead_ns(pid_t pid);

/// Whether process `pid` has this process's clock for certain: it is in the same time namespace.
bool shares_clock(pid_t pid);

/// The same of the text of a /proc/PID/timens_offsets; nothing when that has no line for
/// CLOCK_MONOTONIC, or one that the kernel would not take.
std::optional<std::int64_t> parse_monotonic_offset_ns(std::string_view text);

}  // namespace echion::engine
