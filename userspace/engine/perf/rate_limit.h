#pragma once

#include <cstdint>
#include <optional>

#include "engine/host_engine.h"

namespace echion::engine {

/// The kernel's limit on the ticks of perf events (kernel.perf_event_max_sample_rate): what it
/// means for those that a run has started.
class RateLimit {
  public:
    /// Ticks have been started; where they are further apart than `wish_ns`, the report says why.
    void note_started(TickReport& report, std::int64_t wish_ns);
    /// Looks whether the limit has fallen below what has been started. The kernel lowers it by
    /// itself when interrupts take too long; whoever is root may, too.
    void look();
    /// The lowest limit of that kind that look() has seen.
    [[nodiscard]] std::optional<LoweredRate> lowered() const;

  private:
    std::int64_t least_interval_ns_ = 0;  // of all that has been started; 0: nothing
    std::int64_t lowered_rate_ = 0;       // ticks a second; 0: none
};

}  // namespace echion::engine
