#pragma once

#include <cstdint>

#include "base/error.h"

namespace echion::engine {

/// How often a sampler that keeps its own time looks whether it has been told to stop.
constexpr std::int64_t kHousekeepingNs = 20'000'000;

struct TimerCounts {
    std::uint64_t late = 0;          ///< ticks that began more than half an interval late
    std::uint64_t missed = 0;        ///< deadlines that passed without a tick
    std::uint64_t system_calls = 0;  ///< made to wait
};

/// Where requests to the sampler come from while it waits for its tick: to stop, and others.
/// Sampler thread only.
class RequestSource {
  public:
    RequestSource() = default;
    RequestSource(const RequestSource&) = delete;
    RequestSource& operator=(const RequestSource&) = delete;
    virtual ~RequestSource() = default;

    /// Serves what has been asked for since the last call. No system call if that is nothing.
    virtual void serve() = 0;
    /// Waits for `wait_ns` for the word to stop; true when it has come.
    virtual bool wait_for_stop(std::int64_t wait_ns) = 0;
    /// The descriptor whose arrivals are told of by the signal of the ticks; -1: none.
    [[nodiscard]] virtual int fd() const = 0;
};

/// Makes the sampler's ticks. Sampler thread only.
class TickTimer {
  public:
    TickTimer() = default;
    TickTimer(const TickTimer&) = delete;
    TickTimer& operator=(const TickTimer&) = delete;
    virtual ~TickTimer() = default;

    /// Waits for the next tick, and serves requests meanwhile. False when it is told to stop
    /// instead, or no waiting is possible any more: see status().
    virtual bool wait(RequestSource& requests) = 0;
    /// Why wait() cannot go on: what it waits with is refused (a seccomp filter that came later).
    [[nodiscard]] const Status& status() const { return status_; }
    [[nodiscard]] const TimerCounts& counts() const { return counts_; }

  protected:
    /// For the return of wait(): false, with this reason.
    bool give_up(const char* what, int system_errno);

    TimerCounts counts_;

  private:
    Status status_;
};

}  // namespace echion::engine
