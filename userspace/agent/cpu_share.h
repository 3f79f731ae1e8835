#pragma once

#include <algorithm>
#include <cstdint>

namespace echion::agent {

/// Leaves others half of a CPU, however close ticks come: a real-time thread is not made to give
/// its CPU up, and neither is a thread that is followed there, as that one has no other. All times
/// are CLOCK_MONOTONIC in ns.
class CpuShare {
  public:
    /// A tick that takes longer than twice this leaves less: ticks of very deep stacks would else
    /// come so late that what is between them is missed.
    static constexpr std::int64_t kLongestRestNs = 10'000'000;

    CpuShare(std::int64_t interval_ns, std::int64_t now_ns)
        : least_rest_ns_(interval_ns / 2), ended_ns_(now_ns) {}

    /// How long to sleep behind a tick; 0: not yet, as it would be too short to be worth a call.
    /// `begin_ns` is not before the end of the tick, and of the sleep, before.
    std::int64_t find_rest_ns(std::int64_t begin_ns, std::int64_t end_ns) {
        const std::int64_t slept_ns = begin_ns - ended_ns_;
        owed_ns_ = std::max<std::int64_t>(owed_ns_ - slept_ns, 0) + (end_ns - begin_ns);
        ended_ns_ = end_ns;
        return owed_ns_ > least_rest_ns_ ? std::min(owed_ns_, kLongestRestNs) : 0;
    }
    /// The sleep that find_rest_ns() asked for is over: all that was owed is paid.
    void end_rest(std::int64_t now_ns) {
        owed_ns_ = 0;
        ended_ns_ = now_ns;
    }

  private:
    std::int64_t least_rest_ns_;
    std::int64_t ended_ns_;
    std::int64_t owed_ns_ = 0;
};

}  // namespace echion::agent
