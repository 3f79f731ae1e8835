#include "engine/perf/rate_limit.h"

#include <algorithm>
#include <string>

#include "engine/perf/perf_event.h"

namespace echion::engine {

void RateLimit::note_started(TickReport& report, std::int64_t wish_ns) {
    const std::int64_t interval_ns = report.interval_ns;
    least_interval_ns_ =
        least_interval_ns_ == 0 ? interval_ns : std::min(least_interval_ns_, interval_ns);
    if (interval_ns > wish_ns) {
        report.shortfalls.push_back("the kernel allows one tick in " +
                                    std::to_string(interval_ns / 1000) +
                                    " us (kernel.perf_event_max_sample_rate)");
    }
}

void RateLimit::look() {
    if (least_interval_ns_ == 0) {
        return;
    }
    const perf::Limits limits = perf::read_limits();
    if (perf::clamp_interval(least_interval_ns_, limits) > least_interval_ns_ &&
        (lowered_rate_ == 0 || limits.max_ticks_per_second < lowered_rate_)) {
        lowered_rate_ = limits.max_ticks_per_second;
    }
}

std::optional<LoweredRate> RateLimit::lowered() const {
    if (lowered_rate_ == 0) {
        return std::nullopt;
    }
    return LoweredRate{lowered_rate_, "kernel.perf_event_max_sample_rate fell to " +
                                          std::to_string(lowered_rate_) +
                                          " during the run: ticks were up to " +
                                          std::to_string(1'000'000 / lowered_rate_) +
                                          " us apart; remedy: sudo sysctl "
                                          "kernel.perf_event_max_sample_rate=100000"};
}

}  // namespace echion::engine
