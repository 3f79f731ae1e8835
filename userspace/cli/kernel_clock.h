#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace echion::cli {

/// BPF programs keep time by the kernel's own monotonic clock; a process in a time namespace
/// (time_namespaces(7)) reads CLOCK_MONOTONIC with an offset. Times of the two cannot be compared.

/// Why the clock of process `pid` is not known to be the kernel's; empty if it is. Reads /proc.
std::string why_other_clock(pid_t pid);

/// Whether process `pid` has this process's clock for certain: it is in the same time namespace.
bool shares_clock(pid_t pid);

/// Seconds by which a process's clock is ahead of the kernel's, rounded away from 0, of the text of
/// its /proc/PID/timens_offsets; nothing when that has no line for CLOCK_MONOTONIC.
std::optional<std::int64_t> parse_monotonic_offset_s(std::string_view text);

}  // namespace echion::cli
