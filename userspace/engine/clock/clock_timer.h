#pragma once

#include <cstdint>

#include "engine/tick_timer.h"

namespace echion::engine {

/// Absolute deadlines, one interval apart; those that have passed are skipped and counted.
class ClockTimer final : public TickTimer {
  public:
    ClockTimer(std::int64_t interval_ns, std::int64_t now_ns);
    bool wait(RequestSource& requests) override;

  private:
    bool sleep_until_deadline();

    std::int64_t interval_ns_;
    std::int64_t deadline_ns_;
    std::int64_t looked_ns_;
};

}  // namespace echion::engine
