#include "engine/bpf/bpf_timer.h"

#include <algorithm>
#include <utility>

namespace echion::engine {

BpfTimer::BpfTimer(int signal, std::int64_t interval_ns, bool is_regular, std::int64_t now_ns)
    : SignalledTimer(signal),
      interval_ns_(interval_ns),
      is_regular_(is_regular),
      began_ns_(now_ns) {}

bool BpfTimer::wait(RequestSource& requests) {
    // What came before arrivals were told of by signal, nobody tells of any more.
    requests.serve();
    if (is_stopped_already(requests)) {
        return false;
    }
    for (;;) {
        const std::int64_t patience_ns = makes_up_ ? ticked_ns_ + interval_ns_ - monotonic_ns()
                                                   : interval_ns_ + interval_ns_ / 4;
        switch (wait_for_signal(is_regular_ ? &patience_ns : nullptr, requests)) {
            case Arrival::kStop:
                return false;
            case Arrival::kInterrupted:
                continue;
            case Arrival::kNothing: {
                // The event is on a CPU that has gone to sleep: without a scheduler's tick there to
                // say that time passes, perf takes its ticks for too many at once and holds them
                // back (Linux, kernel/events/core.c, __perf_event_account_interrupt).
                const std::int64_t now_ns = monotonic_ns();
                const std::int64_t due_ns =
                    makes_up_ ? ticked_ns_ + interval_ns_ : now_ns - interval_ns_ / 4;
                ticked_ns_ = std::max(due_ns, now_ns - interval_ns_);
                makes_up_ = true;
                count_due(now_ns);
                return true;
            }
            case Arrival::kTick:
                break;
        }
        if (is_regular_) {
            const std::int64_t now_ns = monotonic_ns();
            if (std::exchange(makes_up_, false) && now_ns - ticked_ns_ < interval_ns_ / 2) {
                continue;  // the kernel's tick that has been made up for
            }
            count_due(now_ns);
        }
        return true;
    }
}

void BpfTimer::count_due(std::int64_t now_ns) {
    // The kernel's ticks keep their distance on the whole, whenever each is seen: the number of
    // those that were due by now says how many have not been seen.
    if (last_due_ == 0) {
        began_ns_ = now_ns - interval_ns_ / 2;
    }
    const std::int64_t due = (now_ns - began_ns_) / interval_ns_ + 1;
    if (due > last_due_ + 1) {
        ++counts_.late;
        counts_.missed += static_cast<std::uint64_t>(due - last_due_ - 1);
    }
    last_due_ = std::max(due, last_due_);
}

}  // namespace echion::engine
