#include "engine/clock/clock_timer.h"

#include <poll.h>
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "base/clock.h"

namespace echion::engine {
namespace {

// How often one whose ticks are rare looks whether something has been asked for.
constexpr std::int64_t kLookForRequestsNs = 100'000'000;

}  // namespace

ClockTimer::ClockTimer(std::int64_t interval_ns, std::int64_t now_ns)
    : interval_ns_(interval_ns), deadline_ns_(now_ns), looked_ns_(now_ns) {}

bool ClockTimer::wait(RequestSource& requests) {
    requests.serve();
    deadline_ns_ += interval_ns_;
    std::int64_t now_ns = monotonic_ns();
    if (now_ns - looked_ns_ >= kHousekeepingNs) {
        looked_ns_ = now_ns;
        ++counts_.system_calls;
        if (requests.wait_for_stop(0)) {
            return false;
        }
    }
    if (now_ns >= deadline_ns_) {
        const std::int64_t passed = (now_ns - deadline_ns_) / interval_ns_;
        counts_.missed += static_cast<std::uint64_t>(passed);
        deadline_ns_ += passed * interval_ns_;
        counts_.late += now_ns - deadline_ns_ > interval_ns_ / 2;
        return true;
    }
    while (deadline_ns_ - now_ns > kHousekeepingNs) {
        ++counts_.system_calls;
        if (requests.wait_for_stop(std::min(deadline_ns_ - now_ns, kLookForRequestsNs))) {
            return false;
        }
        requests.serve();
        looked_ns_ = now_ns = monotonic_ns();
    }
    if (!sleep_until_deadline()) {
        return false;
    }
    counts_.late += monotonic_ns() - deadline_ns_ > interval_ns_ / 2;
    return true;
}

bool ClockTimer::sleep_until_deadline() {
    const timespec deadline = make_timespec(deadline_ns_);
    int error = 0;
    do {
        ++counts_.system_calls;
        error = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, nullptr);
    } while (error == EINTR);
    if (error == 0) {
        return true;
    }
    // A refusal (seccomp). Less exact, there is another way.
    for (std::int64_t left_ns = 0; (left_ns = deadline_ns_ - monotonic_ns()) > 0;) {
        const timespec patience = make_timespec(left_ns);
        ++counts_.system_calls;
        if (ppoll(nullptr, 0, &patience, nullptr) != 0 && errno != EINTR) {
            return give_up("wait for the next tick: clock_nanosleep and ppoll are refused", errno);
        }
    }
    return true;
}

}  // namespace echion::engine
