#pragma once

#include "agent/channel.h"
#include "agent/guest.h"
#include "base/error.h"

namespace echion::agent {

/// What the sampler thread does from its first to its last moment: greets the command-line program,
/// waits for its wishes and for Python, samples until it is told to stop or left alone, and tidies
/// up. Returns when nothing is left but the thread.
void run_sampler(Channel& channel, const GuestFacts& facts);

}  // namespace echion::agent
