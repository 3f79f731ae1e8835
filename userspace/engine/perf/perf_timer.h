#pragma once

#include <cstdint>

#include "base/clock.h"
#include "engine/signalled_timer.h"

namespace echion::engine {

/// Ticks of CPU time as a real-time signal, from perf events on the threads of this process: each
/// ticks when its thread has used an interval of CPU time. Where none comes for a little longer
/// though the process uses CPU time, this ticks by itself: in the kernel an ordinary user's events
/// do not tick, and threads may end before their first one; what they do would show as what comes
/// next. A process that sleeps causes no wake-up.
class PerfTimer final : public SignalledTimer {
  public:
    /// `signal`: blocked in the calling thread, as all signals are.
    PerfTimer(int signal, std::int64_t interval_ns, std::int64_t now_ns);
    bool wait(RequestSource& requests) override;

  private:
    bool has_used_cpu();
    bool look(std::int64_t now_ns);

    bool is_watchful_ = true;  // CPU time has been used not long ago
    std::int64_t gap_ns_;
    std::int64_t look_ns_;
    std::int64_t ticked_ns_ = kLongAgoNs;  // CLOCK_MONOTONIC
    std::int64_t last_used_ns_;     // likewise, of the last look that found CPU time used, or tick
    std::int64_t used_cpu_ns_ = 0;  // the process's at the last such look, the sampler's aside
};

}  // namespace echion::engine
