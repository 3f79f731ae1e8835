#pragma once

#include <cstddef>
#include <cstdint>

#include "control/control.h"
#include "engine/tick_timer.h"

namespace echion::engine {

/// What an agent has been given for its ticks.
struct TickOffer {
    std::uint32_t flags = 0;        ///< set of control::ConfigureFlag
    bool has_thread_table = false;  ///< the kernel's table of threads is open (kBpfState)
    bool cpu_time = false;          ///< ticks of CPU time are wanted, not of the wall clock
};

struct TimerSettings {
    int signal = control::kNoSignal;  ///< blocked in the calling thread; of the kernel's ticks only
    std::int64_t interval_ns = 0;
    bool cpu_time = false;
    std::int64_t now_ns = 0;  ///< CLOCK_MONOTONIC
};

struct AgentTimerKind;

/// The agent's half of an engine: the timer of its sampler. Allocates nothing. Sampler thread only.
class AgentTimer {
  public:
    static constexpr std::size_t kRoomBytes = 512;  // for any of them

    /// Chooses the best timer of those that are offered.
    explicit AgentTimer(const TickOffer& offer);
    AgentTimer(const AgentTimer&) = delete;
    AgentTimer& operator=(const AgentTimer&) = delete;
    ~AgentTimer();

    /// Whether its ticks are signals, which the command-line program has to be asked for
    /// (control::Arm).
    [[nodiscard]] bool needs_arming() const;
    /// Starts the timer that was chosen. Once.
    void start(const TimerSettings& settings);
    /// In its place, the sampler's own clock, which can always be had.
    void start_clock(std::int64_t interval_ns, std::int64_t now_ns);
    [[nodiscard]] bool is_started() const { return timer_ != nullptr; }
    TickTimer* operator->() { return timer_; }

  private:
    const AgentTimerKind* kind_;
    TickTimer* timer_ = nullptr;  // in room_
    alignas(std::max_align_t) std::byte room_[kRoomBytes];
};

}  // namespace echion::engine
