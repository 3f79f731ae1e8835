#pragma once

#include "agent/channel.h"
#include "agent/guest.h"
#include "agent/io_thread.h"
#include "agent/program_threads.h"
#include "cpython/locate.h"

namespace echion::agent {

/// What the sampler thread does from its first to its last moment: says Hello, waits for Configure
/// and for Python, samples until it is told to stop or nobody reads any more, and gives back what
/// it has taken. Returns when nothing is left but the thread.
///
/// `found`: where Python was when the program began; null if that was not looked for or could not
/// be told. Used where looking would take descriptors of the program.
void run_sampler(Channel& channel, const GuestFacts& facts, const cpython::LocatedRuntime* found,
                 IoThread& io, ProgramThreads& program);

}  // namespace echion::agent
