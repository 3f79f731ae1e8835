#include "engine/perf/perf_timer.h"

#include <time.h>

namespace echion::engine {
namespace {

// A process that has used none for so long is not looked at again before the next tick.
constexpr std::int64_t kRestNs = 20'000'000;
// The two clocks that are compared are read one after the other.
constexpr std::int64_t kLeastUsedNs = 20'000;

}  // namespace

PerfTimer::PerfTimer(int signal, std::int64_t interval_ns, std::int64_t now_ns)
    : SignalledTimer(signal),
      gap_ns_(interval_ns / 2),
      look_ns_(interval_ns + interval_ns / 4),
      last_used_ns_(now_ns) {}

bool PerfTimer::wait(RequestSource& requests) {
    requests.serve();
    if (is_stopped_already(requests)) {
        return false;
    }
    for (;;) {
        switch (wait_for_signal(is_watchful_ ? &look_ns_ : nullptr, requests)) {
            case Arrival::kStop:
                return false;
            case Arrival::kInterrupted:
                continue;
            case Arrival::kNothing:
                if (!look(monotonic_ns())) {
                    continue;
                }
                break;
            case Arrival::kTick:
                is_watchful_ = true;
                last_used_ns_ = monotonic_ns();
                // Threads that run at the same time tick each for itself, but are all looked at in
                // one.
                if (last_used_ns_ - ticked_ns_ < gap_ns_) {
                    continue;
                }
                break;
        }
        ticked_ns_ = last_used_ns_;
        return true;
    }
}

bool PerfTimer::look(std::int64_t now_ns) {
    if (has_used_cpu()) {
        last_used_ns_ = now_ns;
        return true;
    }
    is_watchful_ = now_ns - last_used_ns_ < kRestNs;
    return false;
}

bool PerfTimer::has_used_cpu() {
    counts_.system_calls += 2;
    const std::int64_t used_ns =
        read_clock_ns(CLOCK_PROCESS_CPUTIME_ID) - read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    if (used_ns - used_cpu_ns_ < kLeastUsedNs) {
        return false;
    }
    used_cpu_ns_ = used_ns;
    return true;
}

}  // namespace echion::engine
