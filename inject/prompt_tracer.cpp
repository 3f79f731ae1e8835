#include "inject/prompt_tracer.h"

#include <sched.h>
#include <sys/prctl.h>
#include <time.h>

#include <algorithm>

#include "base/clock.h"

namespace echion::inject {
namespace {

// Longest wait without a look: for a SIGCHLD that went to another thread of this process.
constexpr std::int64_t kNapNs = 2'000'000;

constexpr std::uint64_t kShortestSliceNs = 100'000;  // the kernel takes no shorter one
constexpr std::int32_t kBestNice = -20;
constexpr std::uint64_t kResetOnFork = 1;  // SCHED_FLAG_RESET_ON_FORK

sigset_t child_signal() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    return set;
}

}  // namespace

PromptTracer::PromptTracer() {
    const sigset_t set = child_signal();
    pthread_sigmask(SIG_BLOCK, &set, &kept_signals_);
    has_kept_ = read_ordinary_scheduling(0, kept_);
    if (has_kept_) {
        // For the ordinary turns: the one that is due first among ordinary threads is the one with
        // a short slice and a large share.
        SchedulerAttributes prompt = kept_;
        prompt.runtime_ns = kShortestSliceNs;
        prompt.nice = kBestNice;
        prompt.flags |= kResetOnFork;
        write_scheduling(0, prompt);
        // A process that may not do this waits its turn like any other.
        sched_param first{};
        first.sched_priority = sched_get_priority_min(SCHED_RR);
        sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &first);
    }
    kept_slack_ns_ = prctl(PR_GET_TIMERSLACK);
    prctl(PR_SET_TIMERSLACK, 1);
}

PromptTracer::~PromptTracer() {
    if (has_kept_) {
        write_scheduling(0, kept_);
    }
    prctl(PR_SET_TIMERSLACK, kept_slack_ns_ > 0 ? kept_slack_ns_ : 0);
    // Those of our own tracing, so that nobody takes them for a child's end.
    const sigset_t set = child_signal();
    const timespec now{};
    while (sigtimedwait(&set, nullptr, &now) == SIGCHLD) {
    }
    pthread_sigmask(SIG_SETMASK, &kept_signals_, nullptr);
}

OrdinaryTurn::OrdinaryTurn() : kept_policy_(sched_getscheduler(0)) {
    sched_param kept{};
    const bool is_first = kept_policy_ >= 0 && (kept_policy_ & ~SCHED_RESET_ON_FORK) == SCHED_RR &&
                          sched_getparam(0, &kept) == 0;
    kept_priority_ = kept.sched_priority;
    // Of its own accord the thread keeps the nice value and the slice that it had before.
    const sched_param ordinary{};
    if (!is_first ||
        sched_setscheduler(0, SCHED_OTHER | (kept_policy_ & SCHED_RESET_ON_FORK), &ordinary) != 0) {
        kept_policy_ = -1;
    }
}

OrdinaryTurn::~OrdinaryTurn() {
    if (kept_policy_ >= 0) {
        sched_param kept{};
        kept.sched_priority = kept_priority_;
        sched_setscheduler(0, kept_policy_, &kept);
    }
}

PromptThread::PromptThread(pid_t tid, const PromptTracer& tracer) : tid_(tid) {
    if (!read_ordinary_scheduling(tid_, kept_)) {
        return;
    }
    SchedulerAttributes prompt = kept_;
    prompt.runtime_ns = kShortestSliceNs;
    has_changed_ = write_scheduling(tid_, prompt);
    if (kept_.runtime_ns == tracer.usual_slice_ns()) {
        kept_.runtime_ns = 0;  // back to the usual one, whatever that is then
    }
}

PromptThread::~PromptThread() {
    if (has_changed_) {
        write_scheduling(tid_, kept_);
    }
}

void await_child_signal(std::int64_t deadline_ns) {
    const std::int64_t left_ns = deadline_ns - monotonic_ns();
    const timespec patience = make_timespec(std::clamp(left_ns, std::int64_t{0}, kNapNs));
    const sigset_t set = child_signal();
    sigtimedwait(&set, nullptr, &patience);
}

}  // namespace echion::inject
