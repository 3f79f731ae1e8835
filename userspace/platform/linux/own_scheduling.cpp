#include "platform/own_scheduling.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <algorithm>

#include "platform/linux/scheduler.h"

namespace echion {
namespace {

// Of the sampler, whose ticks are short and rest as long as they took: enough to get a CPU beside
// several threads of the program at the usual priority.
constexpr std::int32_t kPriorityRaise = 10;
constexpr std::int32_t kLeastNice = -20;
constexpr std::uint32_t kLeastRealtimePriority = 1;
constexpr std::uint32_t kMostRealtimePriority = 99;

bool is_realtime(const SchedulerAttributes& attributes) {
    return attributes.policy == SCHED_FIFO || attributes.policy == SCHED_RR;
}

}  // namespace

void set_exact_wakeups() { prctl(PR_SET_TIMERSLACK, 1UL); }

std::int32_t set_low_latency() {
    set_exact_wakeups();
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

}  // namespace echion
