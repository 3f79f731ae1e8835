#pragma once

#include "agent/channel.h"
#include "agent/guest.h"
#include "agent/io_thread.h"
#include "base/error.h"
#include "cpython/locate.h"

namespace echion::agent {

/// The threads that the program has beside the agent's. Each look opens a file.
class ProgramThreads {
  public:
    /// Whether there is none any more. To be asked now and then, too, while there are some.
    bool is_over();
    /// Behind that: the status that the process would have had without the agent, as wait(2) tells
    /// it. 0 also for a program that has left all its threads by pthread_exit(3).
    ///
    /// It is that of the thread that ended last (Linux 5.19, kernel/exit.c,
    /// synchronize_group_exit; before, that of the first thread whatever the others did). The
    /// kernel keeps the first one's only: another that ended last is taken to have returned.
    [[nodiscard]] int read_status() const;

  private:
    bool was_first_outlived_ = false;
};

/// What the sampler thread does from its first to its last moment: says Hello, waits for Configure
/// and for Python, samples until it is told to stop or nobody reads any more, and gives back what
/// it has taken. Returns when nothing is left but the thread.
///
/// `found`: where Python was when the program began; null if that was not looked for or could not
/// be told. Used where looking would take descriptors of the program.
void run_sampler(Channel& channel, const GuestFacts& facts, const cpython::LocatedRuntime* found,
                 IoThread& io, ProgramThreads& program);

}  // namespace echion::agent
