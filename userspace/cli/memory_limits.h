#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace echion::cli {

/// The limits in the text of /proc/PID/limits on what a process may map, with the way out: "its
/// address space is limited to 1 GiB (ulimit -v) …". `locks_memory`: it has locked some, and so may
/// have to lock what it maps (mlockall(2)). Empty when there are none. Pure.
std::string describe_memory_limits(std::string_view limits, pid_t pid, bool locks_memory = false);

/// The soft limit in the line `key` of that text; nothing when it is unlimited or not there. Pure.
std::optional<std::uint64_t> find_soft_limit(std::string_view limits, std::string_view key);

/// The same of a process, as the likely reason of a lack of memory in it; begins with "; ".
/// `locks_memory`: it is known to lock what it maps; else it may if some is locked. Empty also when
/// it cannot be told.
std::string explain_memory_limits(pid_t pid, bool locks_memory = false);

}  // namespace echion::cli
