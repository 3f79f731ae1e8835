#pragma once

#include <cstdint>

#include "platform/thread_stat.h"

namespace echion::capture {

/// Whether a thread is on a CPU, waits for one, or waits for something else.
enum class Scheduling : std::uint8_t {
    kUnknown,   ///< Where its state is 'R': on a CPU or runnable, which could not be told apart.
    kOnCpu,     ///< It runs.
    kRunnable,  ///< It has work to do, but no CPU.
    kWaiting,   ///< It sleeps, is stopped, …: its kernel state says which.
};

/// Tells whether a thread whose state is 'R' is on a CPU or runnable: the kernel says 'R' of both.
///
/// It is told from the scheduler's counts, by the first change in them. They change (kernel/sched/
/// stats.h: sched_info_arrive(), sched_info_depart(); update_curr()):
///
///     the thread comes onto a CPU          slices + 1, wait time + all of its wait
///     it leaves the CPU                    run time
///     a tick of the scheduler's clock,     run time
///       while it is on a CPU
///     it moves to another CPU's queue       wait time
///
/// So what changes first says where the thread was when the watch began. Pure.
class RunWatch {
  public:
    /// The counts at `now_ns` of the monotonic clock, at which the thread's state was 'R'. The
    /// first call begins the watch.
    void look(std::int64_t now_ns, const ThreadRun& run);
    /// Forgets everything: the thread has been seen in another state than 'R'.
    void reset() { *this = {}; }

    [[nodiscard]] bool has_begun() const { return has_begun_; }
    /// Where the thread was when the watch began; kUnknown until its counts have changed.
    [[nodiscard]] Scheduling verdict() const { return verdict_; }

  private:
    ThreadRun first_;
    std::int64_t unchanged_ns_ = 0;  // when the counts were last seen as they were first
    bool has_begun_ = false;
    Scheduling verdict_ = Scheduling::kUnknown;
};

}  // namespace echion::capture
