#include "engine/bpf/kernel_clock.h"

#include <unistd.h>

#include <array>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "base/clock.h"

namespace echion::engine {
namespace {

/// The name of a namespace, "time:[4026531834]"; empty where there is none or it may not be read.
std::string read_namespace(const std::string& path) {
    std::array<char, 64> name{};
    const ssize_t size = ::readlink(path.c_str(), name.data(), name.size());
    return size > 0 ? std::string(name.data(), static_cast<std::size_t>(size)) : std::string();
}

/// Of the namespace that the process's children to come are in.
std::int64_t read_offset_ns(const std::string& folder) {
    std::ifstream file(folder + "/timens_offsets");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    // Before Linux 5.6 there are none, and the file neither.
    return parse_monotonic_offset_ns(text).value_or(0);
}

/// Whether a process's children to come are where it is itself.
bool is_where_children_are(const std::string& folder) {
    return read_namespace(folder + "/ns/time") == read_namespace(folder + "/ns/time_for_children");
}

// The kernel's bound: a clock that is set so far ahead has as long to run (kernel/time/namespace.c,
// KTIME_SEC_MAX / 2).
constexpr std::int64_t kMaxOffsetS = INT64_MAX / kNanosPerSecond / 2;

}  // namespace

std::optional<std::int64_t> parse_monotonic_offset_ns(std::string_view text) {
    // "monotonic  -5 500000000": seconds rounded down, and nanoseconds beyond them.
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        const std::string line(text.substr(0, end));
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        std::int64_t seconds = 0;
        std::int64_t ns = 0;
        if (std::sscanf(line.c_str(), "monotonic %" SCNd64 " %" SCNd64, &seconds, &ns) == 2) {
            const bool is_possible = seconds >= -kMaxOffsetS && seconds <= kMaxOffsetS && ns >= 0 &&
                                     ns < kNanosPerSecond;
            return is_possible ? std::optional(seconds * kNanosPerSecond + ns) : std::nullopt;
        }
    }
    return std::nullopt;
}

bool shares_clock(pid_t pid) {
    // Before Linux 5.6 neither has one.
    const std::string own = read_namespace("/proc/self/ns/time");
    return own == read_namespace("/proc/" + std::to_string(pid) + "/ns/time");
}

tl::expected<std::int64_t, std::string> find_clock_ahead_ns(pid_t pid) {
    const std::string folder = "/proc/" + std::to_string(pid);
    const std::string own = "/proc/self";
    if (is_where_children_are(folder)) {
        return read_offset_ns(folder);
    }
    const std::string clock = read_namespace(folder + "/ns/time");
    if (!clock.empty() && clock == read_namespace(own + "/ns/time") && is_where_children_are(own)) {
        return read_offset_ns(own);
    }
    return tl::unexpected(
        std::string("it has made a time namespace for its children, so that how far its own clock "
                    "is from the kernel's, by which BPF keeps time, cannot be read"));
}

}  // namespace echion::engine
