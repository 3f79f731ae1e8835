#pragma once

#include <signal.h>

#include <cstdint>

#include "engine/tick_timer.h"

namespace echion::engine {

/// Ticks that come as a real-time signal, from perf events of the command-line program: what the
/// timers of several engines have in common. Requests arrive by the same signal, so that a sampler
/// without ticks (CPU mode, a target that sleeps) is not woken at all.
class SignalledTimer : public TickTimer {
  public:
    /// Whether the calling thread may wait for signals. Looks.
    static bool may_wait();

  protected:
    explicit SignalledTimer(int signal);

    enum class Arrival {
        kTick,
        kNothing,      ///< in the time that it waited for
        kInterrupted,  ///< likewise, before that was over
        kStop,         ///< also where no waiting is possible any more: wait() returns false
    };
    /// Waits; without end where `patience_ns` is null.
    Arrival wait_for_signal(const std::int64_t* patience_ns, RequestSource& requests);
    /// Whether a request to stop came before arrivals were told of by signal. Looks once.
    bool is_stopped_already(RequestSource& requests);

  private:
    sigset_t signals_{};
    bool has_looked_ = false;
};

}  // namespace echion::engine
