#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

namespace echion::cli {

/// The limits in the text of /proc/PID/limits on what a process may map, with the way out: "its
/// address space is limited to 1 GiB (ulimit -v) …". Empty when there are none. Pure.
std::string describe_memory_limits(std::string_view limits, pid_t pid);

/// The same of a process, as the likely reason of a lack of memory in it; begins with "; ". Empty
/// also when it cannot be told.
std::string explain_memory_limits(pid_t pid);

}  // namespace echion::cli
