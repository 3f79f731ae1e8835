#pragma once

#include <signal.h>

#include <cstdint>

#include "agent/channel.h"
#include "agent/dump.h"
#include "base/clock.h"

namespace echion::agent {

/// How often a sampler that keeps its own time looks whether it has been told to stop.
constexpr std::int64_t kHousekeepingNs = 20'000'000;
/// How often one whose ticks are rarer looks whether a dump has been asked for.
constexpr std::int64_t kLookForRequestsNs = 100'000'000;

struct TimerCounts {
    std::uint64_t late = 0;          ///< ticks that began more than half an interval late
    std::uint64_t missed = 0;        ///< deadlines that passed without a tick
    std::uint64_t system_calls = 0;  ///< made to wait
};

/// Makes the sampler's ticks. Sampler thread only.
class TickTimer {
  public:
    TickTimer() = default;
    TickTimer(const TickTimer&) = delete;
    TickTimer& operator=(const TickTimer&) = delete;
    virtual ~TickTimer() = default;

    /// Waits for the next tick, and writes the dumps that are asked for meanwhile. False when the
    /// channel said stop instead, or no waiting is possible any more: see status().
    virtual bool wait(Channel& channel, StackDump& dump) = 0;
    /// Why wait() cannot go on: what it waits with is refused (a seccomp filter that came later).
    [[nodiscard]] const Status& status() const { return status_; }
    [[nodiscard]] const TimerCounts& counts() const { return counts_; }

  protected:
    /// Serves what a signal tells of: dumps that are asked for, a message on the channel.
    bool is_told_to_stop(int signal, const siginfo_t& info, Channel& channel, StackDump& dump);

    /// Whether the channel said stop before arrivals were told of by signal. Looks once.
    bool is_stopped_already(Channel& channel);

    /// For the return of wait(): false, with this reason.
    bool give_up(const char* what, int system_errno);

    TimerCounts counts_;

  private:
    Status status_;
    bool has_looked_ = false;
};

/// Absolute deadlines, one interval apart; those that have passed are skipped and counted.
class ClockTimer final : public TickTimer {
  public:
    ClockTimer(std::int64_t interval_ns, std::int64_t now_ns);
    bool wait(Channel& channel, StackDump& dump) override;

  private:
    bool sleep_until_deadline();

    std::int64_t interval_ns_;
    std::int64_t deadline_ns_;
    std::int64_t looked_ns_;
};

/// Ticks that come as a real-time signal, from perf events of the command-line program. Without
/// ticks (CPU mode, a target that sleeps) the sampler is not woken at all: a control message comes
/// as the same signal. Regular ticks that stay out are made up for: the first a quarter of an
/// interval late, those that follow when they are due, until the kernel ticks again.
class SignalTimer final : public TickTimer {
  public:
    /// Blocked in the calling thread, as all signals are.
    static int pick_signal() { return control::kTickSignal; }
    /// Whether the calling thread may wait for signals. Looks.
    static bool may_wait();

    /// `is_regular`: a tick is due every interval (wall mode), so that missing ones can be told.
    SignalTimer(int signal, std::int64_t interval_ns, bool is_regular, std::int64_t now_ns);
    bool wait(Channel& channel, StackDump& dump) override;

  private:
    void count_due(std::int64_t now_ns);

    sigset_t signals_{};
    std::int64_t interval_ns_;
    bool is_regular_;
    std::int64_t began_ns_;  // half an interval before the first tick was due
    std::int64_t last_due_ = 0;
    bool makes_up_ = false;                // the last tick was one of its own,
    std::int64_t ticked_ns_ = kLongAgoNs;  // due then
};

/// Ticks of CPU time as a real-time signal, from perf events on the threads of this process: each
/// ticks when its thread has used an interval of CPU time. Where none comes for a little longer
/// though the process uses CPU time, this ticks by itself: in the kernel an ordinary user's events
/// do not tick, and threads may end before their first one; what they do would show as what comes
/// next. A process that sleeps causes no wake-up.
class CpuTimeTimer final : public TickTimer {
  public:
    /// `signal`: as SignalTimer::pick_signal().
    CpuTimeTimer(int signal, std::int64_t interval_ns, std::int64_t now_ns);
    bool wait(Channel& channel, StackDump& dump) override;

  private:
    bool has_used_cpu();
    bool look(std::int64_t now_ns);

    sigset_t signals_{};
    bool is_watchful_ = true;  // CPU time has been used not long ago
    std::int64_t gap_ns_;
    std::int64_t look_ns_;
    std::int64_t ticked_ns_ = kLongAgoNs;  // CLOCK_MONOTONIC
    std::int64_t last_used_ns_;     // likewise, of the last look that found CPU time used, or tick
    std::int64_t used_cpu_ns_ = 0;  // the process's at the last such look, the sampler's aside
};

/// Asks the scheduler for a short time slice, exact wake-ups and, where this process may have it, a
/// higher priority, for the calling thread. Returns by how much its nice value is lower now.
std::int32_t become_prompt();

/// Where this process may have it, schedules the calling thread before all ordinary ones and behind
/// all other real-time ones; if it is a real-time thread already (as the one that started it), one
/// priority higher, as it would not get the CPU from its program's threads. A nice value counts
/// among the tasks of one group only, and with autogroups (sched(7)) each session is one: beside
/// busy programs of other sessions a sampler with any nice value runs when its program does. Not
/// where the program's own nice value is above 0: it was put behind others, with all its threads.
/// `raised_by`: what become_prompt() returned. The caller must leave others their share of the CPU.
bool become_realtime(std::int32_t raised_by);
/// Whether the calling thread has a real-time policy, be it that of the thread that started it.
bool is_realtime();

}  // namespace echion::agent
