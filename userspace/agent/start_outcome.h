#pragma once

#include <atomic>
#include <cstdint>

#include "platform/wake_word.h"

namespace echion::agent {

/// How a start of the agent's threads has gone, from the IoThread, which knows it, to the thread
/// that waits for it; of one start at a time. Exactly one of the two ends a start that has failed:
/// the one that waits, or the IoThread where nobody waits any more.
class StartOutcome {
  public:
    void begin() { state_.store(kStarting); }

    /// Tells who waits for it. False if nobody does any more. An error is the waiting one's from
    /// then on: the channel or the rendezvous, and the end of this start. Another start may begin
    /// as soon as it is told.
    bool tell(int error) {
        error_.store(error);
        std::uint32_t expected = kStarting;
        if (!state_.compare_exchange_strong(expected, kStarted)) {
            return false;
        }
        wake_all(state_);
        return true;
    }

    /// Waits until it is told; for ever if the time is negative. 0 or an errno; 0 also when the
    /// start takes longer.
    int await(std::int64_t timeout_ns) {
        std::uint32_t expected = kStarting;
        if (!wait_while(state_, kStarting, timeout_ns) &&
            state_.compare_exchange_strong(expected, kUnattended)) {
            return 0;
        }
        return error_.load();
    }

  private:
    enum State : std::uint32_t { kStarting, kStarted, kUnattended };

    WakeWord state_{kStarting};
    std::atomic<int> error_{0};
};

}  // namespace echion::agent
