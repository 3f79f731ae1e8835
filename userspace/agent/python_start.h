#pragma once

#include "agent/channel.h"
#include "agent/program_threads.h"
#include "base/error.h"
#include "cpython/locate.h"
#include "sampling/stack_sampler.h"

/// Waiting for Python's start in this process. The texts of errors are the one sampler's: they last
/// until the next error. Sampler thread only.
namespace echion::agent {

/// The runtime as it is now; kNotReady when Python has not started yet.
Result<cpython::LocatedRuntime> find_python();

/// Waits for Python, which it looks for meanwhile. `start`: when it was last looked for and had not
/// started. kNotReady when told to stop, or when the program has ended.
Result<cpython::LocatedRuntime> wait_for_python(Channel& channel, ProgramThreads& program,
                                                sampling::PythonStart& start);

/// The same for a runtime that was found when the program began, without opening a file.
Result<cpython::LocatedRuntime> wait_for_found(Channel& channel,
                                               const cpython::LocatedRuntime& found,
                                               sampling::PythonStart& start);

}  // namespace echion::agent
