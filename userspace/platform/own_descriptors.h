#pragma once

#include <sys/types.h>

#include "base/unique_fd.h"

namespace echion {

/// Gives the calling thread a descriptor table of its own, in which only `kept` is open, under the
/// same number. False if it shares the process's as before, as where the system has no such tables.
/// With `may_copy`, for when the program waits meanwhile, all other descriptors may be copied first
/// and the copies closed: for that time the program's files have one reference more.
bool leave_descriptor_table(int kept, bool may_copy);

/// Closes all descriptors from `first` on in the calling thread's table, as far as the system lets
/// it.
void close_descriptors_from(int first);

/// Opens what another thread of this process has under `fd` anew, with `flags` of open(2): under an
/// open file description of its own. None, with errno, if that may not be opened, or is nothing
/// that can be.
UniqueFd open_descriptor_anew(pid_t tid, int fd, int flags);

}  // namespace echion
