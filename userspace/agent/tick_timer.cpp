#include "agent/tick_timer.h"

#include <poll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "platform/linux/scheduler.h"

namespace echion::agent {

namespace {

// A process that has used none for so long is not looked at again before the next tick.
constexpr std::int64_t kRestNs = 20'000'000;
// The two clocks that are compared are read one after the other.
constexpr std::int64_t kLeastUsedNs = 20'000;

// Of the sampler, whose ticks are short and rest as long as they took: enough to get a CPU beside
// several threads of the program at the usual priority.
constexpr std::int32_t kPriorityRaise = 10;
constexpr std::int32_t kLeastNice = -20;
constexpr std::uint32_t kLeastRealtimePriority = 1;
constexpr std::uint32_t kMostRealtimePriority = 99;

bool is_realtime(const SchedulerAttributes& attributes) {
    return attributes.policy == SCHED_FIFO || attributes.policy == SCHED_RR;
}

constexpr char kNoSignals[] = "wait for the kernel's ticks: rt_sigtimedwait is refused";

// What the kernel sends when its queue of real-time signals is full is SIGIO.
sigset_t make_set(int signal) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, signal);
    sigaddset(&set, SIGIO);
    return set;
}

}  // namespace

ClockTimer::ClockTimer(std::int64_t interval_ns, std::int64_t now_ns)
    : interval_ns_(interval_ns), deadline_ns_(now_ns), looked_ns_(now_ns) {}

bool ClockTimer::wait(Channel& channel, StackDump& dump) {
    dump.serve();
    deadline_ns_ += interval_ns_;
    std::int64_t now_ns = monotonic_ns();
    if (now_ns - looked_ns_ >= kHousekeepingNs) {
        looked_ns_ = now_ns;
        ++counts_.system_calls;
        if (channel.wait_for_stop(0)) {
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
        if (channel.wait_for_stop(std::min(deadline_ns_ - now_ns, kLookForRequestsNs))) {
            return false;
        }
        dump.serve();
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

bool TickTimer::give_up(const char* what, int system_errno) {
    status_ = fail(ErrorKind::kRefused, what, system_errno);
    return false;
}

bool SignalTimer::may_wait() {
    sigset_t none;
    sigemptyset(&none);
    const timespec at_once{};
    return sigtimedwait(&none, nullptr, &at_once) < 0 && (errno == EAGAIN || errno == EINTR);
}

SignalTimer::SignalTimer(int signal, std::int64_t interval_ns, bool is_regular, std::int64_t now_ns)
    : signals_(make_set(signal)),
      interval_ns_(interval_ns),
      is_regular_(is_regular),
      began_ns_(now_ns) {}

bool SignalTimer::wait(Channel& channel, StackDump& dump) {
    // What came before arrivals were told of by signal, nobody tells of any more.
    dump.serve();
    if (is_stopped_already(channel)) {
        return false;
    }
    for (;;) {
        siginfo_t info{};
        ++counts_.system_calls;
        const std::int64_t patience_ns = makes_up_ ? ticked_ns_ + interval_ns_ - monotonic_ns()
                                                   : interval_ns_ + interval_ns_ / 4;
        const timespec patience = make_timespec(std::max<std::int64_t>(patience_ns, 0));
        const int signal = sigtimedwait(&signals_, &info, is_regular_ ? &patience : nullptr);
        if (signal < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno != EAGAIN) {
                return give_up(kNoSignals, errno);
            }
            // The event is on a CPU that has gone to sleep: without a scheduler's tick there to say
            // that time passes, perf takes its ticks for too many at once and holds them back
            // (Linux, kernel/events/core.c, __perf_event_account_interrupt).
            const std::int64_t now_ns = monotonic_ns();
            const std::int64_t due_ns =
                makes_up_ ? ticked_ns_ + interval_ns_ : now_ns - interval_ns_ / 4;
            ticked_ns_ = std::max(due_ns, now_ns - interval_ns_);
            makes_up_ = true;
            count_due(now_ns);
            return true;
        }
        if (is_told_to_stop(signal, info, channel, dump)) {
            return false;
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

bool TickTimer::is_stopped_already(Channel& channel) {
    if (std::exchange(has_looked_, true)) {
        return false;
    }
    ++counts_.system_calls;
    return channel.wait_for_stop(0);
}

bool TickTimer::is_told_to_stop(int signal, const siginfo_t& info, Channel& channel,
                                StackDump& dump) {
    // A tick has the number of a perf event, a file of the command-line program: it may be the same
    // as the channel's, so that whatever else a signal may say, it counts as a tick, too.
    dump.serve();
    if (signal == SIGIO || info.si_fd == channel.fd()) {
        ++counts_.system_calls;
        return channel.wait_for_stop(0);
    }
    return false;
}

CpuTimeTimer::CpuTimeTimer(int signal, std::int64_t interval_ns, std::int64_t now_ns)
    : signals_(make_set(signal)),
      gap_ns_(interval_ns / 2),
      look_ns_(interval_ns + interval_ns / 4),
      last_used_ns_(now_ns) {}

bool CpuTimeTimer::wait(Channel& channel, StackDump& dump) {
    dump.serve();
    if (is_stopped_already(channel)) {
        return false;
    }
    for (;;) {
        siginfo_t info{};
        ++counts_.system_calls;
        const timespec patience = make_timespec(look_ns_);
        const int signal = sigtimedwait(&signals_, &info, is_watchful_ ? &patience : nullptr);
        if (signal < 0) {
            if (errno == EINTR) {
                continue;
            }
            if (errno != EAGAIN) {
                return give_up(kNoSignals, errno);
            }
            if (!look(monotonic_ns())) {
                continue;
            }
        } else {
            if (is_told_to_stop(signal, info, channel, dump)) {
                return false;
            }
            is_watchful_ = true;
            last_used_ns_ = monotonic_ns();
            // Threads that run at the same time tick each for itself, but are all looked at in one.
            if (last_used_ns_ - ticked_ns_ < gap_ns_) {
                continue;
            }
        }
        ticked_ns_ = last_used_ns_;
        return true;
    }
}

bool CpuTimeTimer::look(std::int64_t now_ns) {
    if (has_used_cpu()) {
        last_used_ns_ = now_ns;
        return true;
    }
    is_watchful_ = now_ns - last_used_ns_ < kRestNs;
    return false;
}

bool CpuTimeTimer::has_used_cpu() {
    counts_.system_calls += 2;
    const std::int64_t used_ns =
        read_clock_ns(CLOCK_PROCESS_CPUTIME_ID) - read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    if (used_ns - used_cpu_ns_ < kLeastUsedNs) {
        return false;
    }
    used_cpu_ns_ = used_ns;
    return true;
}

void SignalTimer::count_due(std::int64_t now_ns) {
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

std::int32_t become_prompt() {
    // Without this the kernel may let a wake-up slip by 50 us to join it with others.
    prctl(PR_SET_TIMERSLACK, 1UL);
    // The sampler shares a CPU with the busy thread that it follows; since Linux 6.12 a thread that
    // wakes with a shorter slice than the running one's takes over at once, instead of when that
    // one has had its share (kernel/sched/fair.c, PREEMPT_SHORT). Needs no privilege. Older kernels
    // ignore the request or refuse it. Not the very shortest: a copy of a deep stack has to fit in.
    constexpr std::uint64_t kShortSliceNs = 500'000;
    SchedulerAttributes attributes{};
    if (!read_ordinary_scheduling(0, attributes)) {
        return 0;
    }
    const std::int32_t nice = attributes.nice;
    // The kernel allows it by the rights of this process alone (CAP_SYS_NICE, RLIMIT_NICE), which
    // could give any thread of its own the same: so whoever runs code in this thread gains nothing.
    attributes.flags |= kResetOnFork;
    attributes.runtime_ns = kShortSliceNs;
    for (const std::int32_t raise : {kPriorityRaise, kPriorityRaise / 2}) {
        attributes.nice = std::max(nice - raise, kLeastNice);
        if (attributes.nice < nice && write_scheduling(0, attributes)) {
            return nice - attributes.nice;
        }
    }
    attributes.nice = nice;
    attributes.flags &= ~kResetOnFork;
    (void)write_scheduling(0, attributes);
    return 0;
}

bool is_realtime() {
    SchedulerAttributes attributes{};
    return read_scheduling(0, attributes) && is_realtime(attributes);
}

bool become_realtime(std::int32_t raised_by) {
    SchedulerAttributes attributes{};
    if (!read_scheduling(0, attributes)) {
        return false;
    }
    // The calling thread has the policy of the one that started it.
    const bool was_realtime = is_realtime(attributes);
    if (!was_realtime && (attributes.policy != SCHED_OTHER || attributes.nice + raised_by > 0)) {
        return false;
    }
    // With this limit the kernel sends SIGXCPU to the process when one of its real-time threads has
    // not waited for so long (setrlimit(2)).
    rlimit limit{};
    if (getrlimit(RLIMIT_RTTIME, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY) {
        return false;
    }
    attributes.flags |= kResetOnFork;
    attributes.policy = SCHED_RR;
    attributes.priority = was_realtime ? std::min(attributes.priority + 1, kMostRealtimePriority)
                                       : kLeastRealtimePriority;
    attributes.nice = 0;
    return write_scheduling(0, attributes);
}

}  // namespace echion::agent
