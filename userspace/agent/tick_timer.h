#pragma once

#include <signal.h>

#include <cstdint>

#include "agent/channel.h"
#include "agent/dump.h"

namespace echion::agent {

/// How often a sampler that keeps its own time looks whether it has been told to stop.
constexpr std::int64_t kHousekeepingNs = 20'000'000;

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
    /// channel said stop instead.
    virtual bool wait(Channel& channel, StackDump& dump) = 0;
    [[nodiscard]] const TimerCounts& counts() const { return counts_; }

  protected:
    TimerCounts counts_;
};

/// Absolute deadlines, one interval apart; those that have passed are skipped and counted.
class ClockTimer final : public TickTimer {
  public:
    ClockTimer(std::int64_t interval_ns, std::int64_t now_ns);
    bool wait(Channel& channel, StackDump& dump) override;

  private:
    std::int64_t interval_ns_;
    std::int64_t deadline_ns_;
    std::int64_t looked_ns_;
};

/// Ticks that come as a real-time signal, from perf events of the command-line program. Without
/// ticks (CPU mode, a target that sleeps) the sampler is not woken at all: a control message comes
/// as the same signal. Regular ticks that stay out are made up for: a quarter of an interval late.
class SignalTimer final : public TickTimer {
  public:
    /// Blocked in the calling thread, as all signals are.
    static int pick_signal() { return SIGRTMAX - 1; }

    /// `is_regular`: a tick is due every interval (wall mode), so that missing ones can be told.
    SignalTimer(int signal, std::int64_t interval_ns, bool is_regular, std::int64_t now_ns);
    bool wait(Channel& channel, StackDump& dump) override;

  private:
    void count_due(std::int64_t now_ns);

    sigset_t signals_{};
    bool has_looked_ = false;  // at the channel, for what came before it was told of by signal
    std::int64_t interval_ns_;
    bool is_regular_;
    std::int64_t began_ns_;  // half an interval before the first tick was due
    std::int64_t last_due_ = 0;
};

/// Asks the scheduler for a short time slice and exact wake-ups, for the calling thread.
void become_prompt();

}  // namespace echion::agent
