#pragma once

#include <sys/types.h>

#include "base/function_ref.h"
#include "memory/stall_guard.h"

namespace echion {

/// Runs `work`, which looks at process `pid`, in a child process of this one, and returns the exit
/// status that `work` returns. When a read stalls, the user is told (explain_stall()), and this
/// returns kExitFailure at once, whatever becomes of the child: a read of a page whose FUSE server
/// has taken the request and does not answer cannot even be killed.
///
/// The child has no descriptors but the standard ones, and dies with this process. Where none can
/// be made, `work` runs in this process. `meanwhile` runs in this process when there is a child, or
/// none can be made: the first moment at which this process may make threads, of which a fork would
/// copy the locks and nothing else.
int run_aside(
    pid_t pid, FunctionRef<int(StallGuard&)> work, FunctionRef<void()> meanwhile = [] {});

}  // namespace echion
