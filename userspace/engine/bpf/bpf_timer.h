#pragma once

#include <cstdint>

#include "base/clock.h"
#include "engine/signalled_timer.h"

namespace echion::engine {

/// Ticks that the BPF programs let through: in CPU mode after so much CPU time of a thread, in wall
/// mode one each interval. Regular ticks that stay out are made up for: the first a quarter of an
/// interval late, those that follow when they are due, until the kernel ticks again.
class BpfTimer final : public SignalledTimer {
  public:
    /// `is_regular`: a tick is due every interval (wall mode), so that missing ones can be told.
    BpfTimer(int signal, std::int64_t interval_ns, bool is_regular, std::int64_t now_ns);
    bool wait(RequestSource& requests) override;

  private:
    void count_due(std::int64_t now_ns);

    std::int64_t interval_ns_;
    bool is_regular_;
    std::int64_t began_ns_;  // half an interval before the first tick was due
    std::int64_t last_due_ = 0;
    bool makes_up_ = false;                // the last tick was one of its own,
    std::int64_t ticked_ns_ = kLongAgoNs;  // due then
};

}  // namespace echion::engine
