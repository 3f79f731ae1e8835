#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "base/unique_fd.h"

namespace echion {

/// A descriptor that stands for the process that has this number now, and for no later one of the
/// same number. Polls as readable when that process has ended; a zombie has. kSystem with ESRCH
/// when there is none, with ENOSYS or EPERM where the system has no such descriptors (Linux
/// before 5.3, some seccomp filters).
Result<UniqueFd> open_process(pid_t pid);

}  // namespace echion
