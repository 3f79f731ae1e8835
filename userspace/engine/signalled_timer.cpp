#include "engine/signalled_timer.h"

#include <time.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"

namespace echion::engine {

bool SignalledTimer::may_wait() {
    sigset_t none;
    sigemptyset(&none);
    const timespec at_once{};
    return sigtimedwait(&none, nullptr, &at_once) < 0 && (errno == EAGAIN || errno == EINTR);
}

SignalledTimer::SignalledTimer(int signal) {
    // What the kernel sends when its queue of real-time signals is full is SIGIO.
    sigemptyset(&signals_);
    sigaddset(&signals_, signal);
    sigaddset(&signals_, SIGIO);
}

bool SignalledTimer::is_stopped_already(RequestSource& requests) {
    if (std::exchange(has_looked_, true)) {
        return false;
    }
    ++counts_.system_calls;
    return requests.wait_for_stop(0);
}

SignalledTimer::Arrival SignalledTimer::wait_for_signal(const std::int64_t* patience_ns,
                                                        RequestSource& requests) {
    timespec patience{};
    if (patience_ns != nullptr) {
        patience = make_timespec(std::max<std::int64_t>(*patience_ns, 0));
    }
    siginfo_t info{};
    ++counts_.system_calls;
    const int signal = sigtimedwait(&signals_, &info, patience_ns != nullptr ? &patience : nullptr);
    if (signal < 0 && (errno == EINTR || errno == EAGAIN)) {
        return errno == EINTR ? Arrival::kInterrupted : Arrival::kNothing;
    }
    if (signal < 0) {
        give_up("wait for the kernel's ticks: rt_sigtimedwait is refused", errno);
        return Arrival::kStop;
    }
    // A tick has the number of a perf event, a file of the command-line program: it may be the same
    // as the number here, so that whatever else a signal may say, it counts as a tick, too.
    requests.serve();
    if (signal == SIGIO || info.si_fd == requests.fd()) {
        ++counts_.system_calls;
        if (requests.wait_for_stop(0)) {
            return Arrival::kStop;
        }
    }
    return Arrival::kTick;
}

}  // namespace echion::engine
