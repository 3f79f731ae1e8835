#include "cli/kernel_clock.h"

#include <unistd.h>

#include <array>
#include <cinttypes>
#include <cstdio>
#include <fstream>
#include <iterator>

namespace echion::cli {
namespace {

/// The name of a namespace, "time:[4026531834]"; empty where there is none or it may not be read.
std::string read_namespace(const std::string& path) {
    std::array<char, 64> name{};
    const ssize_t size = ::readlink(path.c_str(), name.data(), name.size());
    return size > 0 ? std::string(name.data(), static_cast<std::size_t>(size)) : std::string();
}

}  // namespace

std::optional<std::int64_t> parse_monotonic_offset_s(std::string_view text) {
    // "monotonic  -5 500000000": seconds rounded down, and nanoseconds beyond them.
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        const std::string line(text.substr(0, end));
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
        std::int64_t seconds = 0;
        long nanoseconds = 0;
        if (std::sscanf(line.c_str(), "monotonic %" SCNd64 " %ld", &seconds, &nanoseconds) == 2) {
            return nanoseconds > 0 && seconds >= 0 ? seconds + 1 : seconds;
        }
    }
    return std::nullopt;
}

bool shares_clock(pid_t pid) {
    // Before Linux 5.6 neither has one.
    const std::string own = read_namespace("/proc/self/ns/time");
    return own == read_namespace("/proc/" + std::to_string(pid) + "/ns/time");
}

std::string why_other_clock(pid_t pid) {
    const std::string folder = "/proc/" + std::to_string(pid);
    std::ifstream file(folder + "/timens_offsets");
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    // Before Linux 5.6 there are none, and the file neither.
    const std::int64_t ahead_s = parse_monotonic_offset_s(text).value_or(0);
    if (ahead_s != 0) {
        return "it is in a time namespace, where the clock is " +
               std::to_string(ahead_s < 0 ? -ahead_s : ahead_s) + " s " +
               (ahead_s < 0 ? "behind" : "ahead of") + " the kernel's, by which BPF keeps time";
    }
    // The file is about the namespace of the process's children to come.
    if (read_namespace(folder + "/ns/time") != read_namespace(folder + "/ns/time_for_children")) {
        return "it has made a time namespace for its children, so that how far its own clock is "
               "from the kernel's, by which BPF keeps time, cannot be read";
    }
    return "";
}

}  // namespace echion::cli
