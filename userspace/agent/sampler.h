#pragma once

#include "agent/channel.h"
#include "agent/guest.h"
#include "agent/io_thread.h"
#include "base/error.h"
#include "cpython/locate.h"

namespace echion::agent {

/// What the sampler thread does from its first to its last moment: greets the command-line program,
/// waits for its wishes and for Python, samples until it is told to stop or left alone, and tidies
/// up. Returns when nothing is left but the thread.
///
/// `found`: where Python was when the program began; null if that was not looked for or could not
/// be told. Used where looking would take descriptors of the program.
void run_sampler(Channel& channel, const GuestFacts& facts, const cpython::LocatedRuntime* found,
                 IoThread& io);

}  // namespace echion::agent
