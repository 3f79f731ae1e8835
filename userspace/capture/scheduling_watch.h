#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/mapping.h"
#include "capture/captured_thread.h"
#include "capture/run_watch.h"
#include "platform/same_cpu.h"
#include "platform/thread_stat.h"

namespace echion::capture {

/// Tells of the threads of a process, this one or another, whether each is on a CPU, runnable or
/// waiting (CapturedThread::scheduling). Nothing is stopped. Memory is taken by make(). One thread
/// at a time.
class SchedulingWatch {
  public:
    static Result<SchedulingWatch> make(std::size_t max_threads);

    /// Begins with the threads of process `pid` (0: this one), of which nothing is known yet.
    void begin(pid_t pid);
    /// Forgets what was seen of the thread at `index`.
    void forget(std::size_t index) { watches_[index].reset(); }
    /// Looks at the thread at `index`, whose state has just been read. One that runs begins to be
    /// watched: to be called before it has to leave its CPU to the calling thread.
    void look(std::size_t index, CapturedThread& thread, char kernel_state);
    /// Tells of those of `threads` in [from, end) whose kernel_state is 'R' whether they were on a
    /// CPU or runnable when they were first looked at (RunWatch). In this process the threads' CPU
    /// clocks tell at once. In another one the scheduler's counts do, within one and a half ticks
    /// of its clock (2 to 15 ms). A thread whose counts have not changed by then is visited on its
    /// CPU, if `may_follow`: if it did not run there before either, it is runnable. `same_cpu`: of
    /// the calling thread, opened; its affinity may be changed.
    void settle(SameCpu& same_cpu, std::span<CapturedThread> threads, std::size_t from,
                std::size_t end, bool may_follow);

    /// Whether the kernel has no counts of a thread that runs (CONFIG_SCHED_INFO), since begin().
    [[nodiscard]] bool lacks_counts() const { return lacks_counts_; }

  private:
    [[nodiscard]] Result<ThreadRun> read_counts(const CapturedThread& thread) const;
    void look_again(RunWatch& watch, CapturedThread& thread);
    void visit(SameCpu& same_cpu, RunWatch& watch, CapturedThread& thread, bool may_follow);

    pid_t pid_ = 0;
    bool lacks_counts_ = false;
    FixedArray<RunWatch> watches_;
};

}  // namespace echion::capture
