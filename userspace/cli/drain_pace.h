#pragma once

#include <algorithm>
#include <cstdint>

namespace echion::cli {

/// How often rings are looked at: rarely while they stay nearly empty, more often as they fill.
class DrainPace {
  public:
    /// Nothing is looked at, as there is no ring.
    [[nodiscard]] bool is_resting() const { return delay_ns_ == 0; }
    void begin() { delay_ns_ = kFirstDelayNs; }
    void rest() { delay_ns_ = 0; }
    /// How full the fullest ring was found.
    void note(unsigned percent) {
        if (percent >= kFillingPercent) {
            delay_ns_ = std::max(delay_ns_ / 2, kMinDelayNs);
        } else if (percent < kNearlyEmptyPercent) {
            delay_ns_ = std::min(delay_ns_ * 2, kMaxDelayNs);
        }
    }
    /// From one look to the next.
    [[nodiscard]] std::uint64_t delay_ns() const { return delay_ns_; }

  private:
    static constexpr std::uint64_t kMinDelayNs = 1'000'000;
    static constexpr std::uint64_t kFirstDelayNs = 10'000'000;
    static constexpr std::uint64_t kMaxDelayNs = 50'000'000;
    static constexpr unsigned kNearlyEmptyPercent = 2;
    static constexpr unsigned kFillingPercent = 20;

    std::uint64_t delay_ns_ = 0;
};

}  // namespace echion::cli
