#pragma once

#include "base/function_ref.h"

namespace echion::inject {

/// Runs `work` on a thread of its own, which has ended when this returns. Whatever that thread has
/// traced is let go by its end, also threads that could not be stopped and dead ones that nobody
/// has reaped: a stop that was asked for and has not come about is taken back (kernel/ptrace.c,
/// exit_ptrace()). So no thread of the target stays traced for longer than the search lasts.
///
/// The thread blocks all signals: they are for the threads that wait for them. False if it could
/// not be made.
bool run_as_tracer(FunctionRef<void()> work);

}  // namespace echion::inject
