#include "cli/kernel_side.h"

#include <errno.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>

#include "base/clock.h"
#include "cli/kernel_clock.h"
#include "cli/message.h"
#include "cli/tick_timers.h"
#include "platform/linux/perf_event.h"

namespace echion::cli {
namespace {

/// What the places of BpfSession::counters() count, in the order of enum echion_counter.
constexpr std::array<const char*, ECHION_COUNTERS> kCounterNames = {
    "ticks",         "own ticks",       "foreign ticks",    "signals",
    "sampler busy",  "snapshots",       "snapshot unknown", "snapshot fault",
    "snapshot full", "threads refused", "targets refused",
};

// In wall time a busy thread is interrupted twice an interval, by its own tick and by the
// sampler's, and each interrupt takes some microseconds: `scripts/bench slowdown` shows both
// engines.
constexpr std::uint64_t kLeastWallIntervalNs = 500'000;

constexpr Error kNoWaiting{
    ErrorKind::kRefused, EPERM,
    "its sampler may not wait for signals (rt_sigtimedwait is refused: by its seccomp filter?)"};

/// Puts what has been started into the answer; what falls short of the wish is told to the user.
template <typename Report>
void take_report(pid_t pid, const Report& started, control::Armed& answer) {
    const auto interval_ns = static_cast<std::uint64_t>(started.interval_ns);
    if (interval_ns > answer.interval_ns) {
        say("process {}: the kernel allows one tick in {} us (kernel.perf_event_max_sample_rate)",
            pid, interval_ns / 1000);
    }
    if (started.threads_without_event != 0) {
        say("process {}: the stacks of {} threads are read from outside: too many open files", pid,
            started.threads_without_event);
    }
    answer.armed = 1;
    answer.interval_ns = interval_ns;
}

control::Armed make_answer(std::uint64_t interval_ns) {
    control::Armed answer{};
    answer.header = make_header<control::Armed>(control::MessageType::kArmed);
    answer.interval_ns = interval_ns;
    return answer;
}

/// Why a process is not ticked, with the remedy if there is one.
std::string explain(pid_t pid, const Error& error) {
    if (!may_signal(pid)) {
        return explain_signal(pid).text();
    }
    if (error.system_errno == EMFILE || error.system_errno == ENFILE) {
        return explain_perf("open a perf event of each thread", error.system_errno,
                            read_privileges())
            .text();
    }
    return describe(error);
}

}  // namespace

/// Whether a process that something could not be had for has ended: then nothing is to be said.
/// `waits`: a little, for one whose threads are ending; in all so long that processes which want to
/// be waited for do not make the program deaf.
bool KernelSide::has_ended(pid_t pid, bool waits) {
    constexpr std::int64_t kLastMomentsNs = 200'000'000;
    const UniqueFd process(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    if (!process) {
        return errno == ESRCH;
    }
    pollfd entry{process.get(), POLLIN, 0};
    const std::int64_t since_ns = monotonic_ns();
    const std::int64_t may_wait_ns = waits ? std::min(kLastMomentsNs, patience_ns_) : 0;
    const bool is_over = poll(&entry, 1, static_cast<int>(may_wait_ns / 1'000'000)) == 1;
    patience_ns_ -= std::min(patience_ns_, monotonic_ns() - since_ns);
    return is_over;
}

KernelSide::KernelSide(const Options& options) : options_(options) {
    if (options.engine == Engine::kPerf) {
        try_perf();
    }
    if (options.engine != Engine::kAuto && options.engine != Engine::kBpf) {
        return;
    }
    if (options.engine == Engine::kAuto && !options.cpu &&
        options.interval_ns < kLeastWallIntervalNs) {
        why_no_bpf_ = fmt::format(
            "at wall-time intervals below {} us the kernel's ticks cost the program more than the "
            "sampler's own (--engine bpf has them all the same)",
            kLeastWallIntervalNs / 1000);
        return;
    }
    const auto ahead_ns = find_clock_ahead_ns(getpid());
    if (!ahead_ns) {
        why_no_bpf_ = "of echion itself: " + ahead_ns.error();
        if (options.engine == Engine::kAuto && options.cpu) {
            try_perf();
        }
        return;
    }
    // Signals are for the thread that the event loop runs in.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    loading_ = std::async([ahead_ns] { return BpfSession::open({.clock_ahead_ns = *ahead_ns}); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void KernelSide::settle() const {
    if (!loading_.valid()) {
        return;
    }
    auto opened = loading_.get();
    if (opened) {
        bpf_ = std::move(*opened);
    } else {
        why_no_bpf_ = opened.error().text();
        if (options_.engine == Engine::kAuto && options_.cpu) {
            try_perf();
        }
    }
}

void KernelSide::try_perf() const {
    auto opened = PerfTicks::open();
    if (opened) {
        perf_.emplace(std::move(*opened));
    } else {
        why_no_perf_ = opened.error().text();
    }
}

bool KernelSide::has_perf_ticks(pid_t pid) const {
    settle();
    return perf_ && !perf_->why_not(pid);
}

std::string KernelSide::why_refused(std::optional<pid_t> target) const {
    if (!is_insisted_on()) {
        return "";
    }
    settle();
    std::optional<Unavailable> why;
    if (options_.engine == Engine::kBpf) {
        if (!bpf_) {
            return why_no_bpf_;
        }
        if (target && !may_signal(*target)) {
            why = explain_signal(*target);
        } else if (target) {
            const auto ahead_ns = find_clock_ahead_ns(*target);
            return ahead_ns ? "" : ahead_ns.error();
        }
    } else if (options_.engine == Engine::kPerf) {
        if (!perf_) {
            return why_no_perf_;
        }
        why = target ? perf_->why_not(*target) : why;
    }
    return why ? why->text() : "";
}

std::string KernelSide::why_not_better() const {
    std::string text;
    if (!is_available()) {
        for (const auto& [engine, why] :
             {std::pair{"bpf", &why_no_bpf_}, std::pair{"perf", &why_no_perf_}}) {
            if (!why->empty()) {
                text += fmt::format("{}not {}: {}", text.empty() ? "" : "; ", engine, *why);
            }
        }
    }
    return text;
}

tl::unexpected<std::string> KernelSide::refuse(const std::string& why) {
    ++refusals_;
    return tl::unexpected(fmt::format("--engine {} cannot be had: {}",
                                      options_.engine == Engine::kBpf ? "bpf" : "perf", why));
}

tl::expected<std::vector<ExtraFd>, std::string> KernelSide::watch(const AgentProcess& process) {
    const pid_t pid = process.pid();
    if (!process.is_pinned() && is_insisted_on()) {
        return refuse("without pidfds and /proc it is not sure which process is the agent's");
    }
    if (!is_available()) {
        const std::string why = why_refused(pid);
        if (!why.empty() && !has_ended(pid, true)) {
            return refuse(why);
        }
        return {};
    }
    if (!process.is_pinned()) {
        return {};
    }
    const auto ahead_ns = find_clock_ahead_ns(pid);
    if (!ahead_ns) {
        if (is_insisted_on()) {
            return refuse(ahead_ns.error());
        }
        say("process {} is sampled without BPF: {}", pid, ahead_ns.error());
        return {};
    }
    auto target = bpf_->add_target(pid);
    if (target) {
        if (auto status = process.check(); !status) {
            forget(pid);  // may be another process by now
            target = tl::unexpected(status.error());
        }
    }
    if (!target) {
        const std::string why = describe(target.error());
        if (has_ended(pid, is_insisted_on() || target.error().system_errno == ESRCH)) {
            return {};
        }
        if (is_insisted_on()) {
            return refuse(why);
        }
        say("process {} is sampled without BPF: {}", pid, why);
        return {};
    }
    std::vector<ExtraFd> fds = {{control::FdKind::kBpfState, bpf_->state_fd(), *target, *ahead_ns}};
    if (const auto ring = bpf_->snapshot_fd(*target)) {
        fds.push_back({control::FdKind::kBpfSnapshots, *ring});
    } else if (options_.verbose) {
        say("process {} is sampled without snapshots: {}", pid, describe(ring.error()));
    }
    return fds;
}

tl::expected<control::Armed, std::string> KernelSide::arm(const AgentProcess& process,
                                                          const control::Arm& request) {
    const pid_t pid = process.pid();
    Status checked = process.check();
    const bool may_wait = request.signal != control::kNoSignal;
    if (checked && may_wait && request.signal != control::kTickSignal) {
        checked = fail(ErrorKind::kProtocol, "the agent's request for ticks is not valid");
    }
    Result<control::Armed> answer = tl::unexpected(checked ? kNoWaiting : checked.error());
    if (checked && may_wait) {
        answer = is_available() ? arm_bpf(pid, request) : arm_perf(pid, request);
        // What was done to a number was done to this process if the number still is its own.
        checked = process.check();
    }
    if (answer && checked) {
        const auto interval_ns = static_cast<std::int64_t>(answer->interval_ns);
        least_interval_ns_ =
            least_interval_ns_ == 0 ? interval_ns : std::min(least_interval_ns_, interval_ns);
        return *answer;
    }
    const Error& cause = checked ? answer.error() : checked.error();
    const bool is_missing = cause.kind == ErrorKind::kProtocol || cause.system_errno == ESRCH;
    if (is_missing && has_ended(pid, true)) {
        forget(pid);
        return tl::unexpected(std::string());  // what is missing went with it
    }
    if (!checked || answer.error().kind == ErrorKind::kProtocol) {
        forget(pid);
        return tl::unexpected(cause.system_errno == ESRCH ? "" : describe(cause));
    }
    control::Armed refused = make_answer(options_.interval_ns);
    refused.system_errno = answer.error().system_errno;
    // With ESRCH it is the sampler that has ended, as it was told to.
    if (answer.error().system_errno == ESRCH || has_ended(pid, is_insisted_on())) {
        return refused;
    }
    const std::string why = may_wait ? explain(pid, answer.error()) : kNoWaiting.what;
    if (is_insisted_on()) {
        return refuse(why);
    }
    say("process {} is not ticked by the kernel: {}", pid, why);
    return refused;
}

Result<control::Armed> KernelSide::arm_bpf(pid_t pid, const control::Arm& request) {
    const auto target = bpf_->find_target(pid);
    if (!target) {
        return fail(ErrorKind::kSystem, "start the ticks", ESRCH);
    }
    TimerRequest timer;
    timer.wall = !options_.cpu;
    timer.interval_ns = static_cast<std::int64_t>(options_.interval_ns);
    timer.sampler_tid = request.sampler_tid;
    timer.io_tid = request.io_tid;
    std::copy(std::begin(request.helper_tids), std::end(request.helper_tids),
              timer.helper_tids.begin());
    timer.signal = request.signal;
    static_assert(sizeof(timer.snapshot) == sizeof(request.snapshot_layout));
    std::memcpy(&timer.snapshot, request.snapshot_layout, sizeof(timer.snapshot));
    const auto started = bpf_->start_timer(*target, timer);
    if (!started) {
        return tl::unexpected(started.error());
    }
    control::Armed answer = make_answer(options_.interval_ns);
    take_report(pid, *started, answer);
    answer.snapshots = started->snapshots ? 1 : 0;
    return answer;
}

Result<control::Armed> KernelSide::arm_perf(pid_t pid, const control::Arm& request) {
    if (!perf_) {
        return fail(ErrorKind::kProtocol, "start the ticks: none are to be had");
    }
    const auto interval_ns = static_cast<std::int64_t>(options_.interval_ns);
    const auto started = perf_->start(pid, request.sampler_tid, request.signal, interval_ns);
    if (!started) {
        return tl::unexpected(started.error());
    }
    control::Armed answer = make_answer(options_.interval_ns);
    take_report(pid, *started, answer);
    return answer;
}

std::vector<model::CountedCpu> KernelSide::count_cpu(pid_t pid, bool with_living) const {
    const auto target = is_available() ? bpf_->find_target(pid) : std::nullopt;
    std::vector<model::CountedCpu> counted;
    if (target) {
        for (const ThreadCpu& one : bpf_->count_cpu(*target, with_living)) {
            counted.push_back({one.target_tid, one.cpu_ns, one.runnable_ns, one.ended_ns});
        }
    }
    return counted;
}

void KernelSide::forget(pid_t pid) {
    if (const auto target = is_available() ? bpf_->find_target(pid) : std::nullopt) {
        bpf_->remove_target(*target);
    }
    if (perf_) {
        perf_->stop(pid);
    }
}

void KernelSide::note_ended() {
    if (is_available()) {
        bpf_->note_ended();
    }
}

void KernelSide::look_at_rate_limit() {
    if (least_interval_ns_ == 0) {
        return;
    }
    // The kernel lowers it by itself when interrupts take too long; whoever is root may, too.
    const perf::Limits limits = perf::read_limits();
    if (perf::clamp_interval(least_interval_ns_, limits) > least_interval_ns_ &&
        (lowered_rate_ == 0 || limits.max_ticks_per_second < lowered_rate_)) {
        lowered_rate_ = limits.max_ticks_per_second;
    }
}

void KernelSide::keep_ticking() {
    look_at_rate_limit();
    if (is_available()) {
        (void)bpf_->keep_ticking();
    }
}

std::uint64_t KernelSide::threads_refused() const {
    return is_available() ? bpf_->threads_refused() : 0;
}

std::vector<std::string> KernelSide::report() const {
    std::vector<std::string> lines;
    if (!is_available()) {
        for (const auto& [engine, why] :
             {std::pair{"BPF", &why_no_bpf_}, std::pair{"perf events", &why_no_perf_}}) {
            if (!why->empty()) {
                lines.push_back(fmt::format("without {}: {}", engine, *why));
            }
        }
        return lines;
    }
    const auto counters = bpf_->counters();
    for (std::size_t i = 0; i < counters.size(); ++i) {
        if (counters[i] != 0) {
            lines.push_back(fmt::format("bpf {:<16} {:>12}", kCounterNames[i], counters[i]));
        }
    }
    if (const std::uint64_t missed = bpf_->threads_missed(); missed != 0) {
        lines.push_back(fmt::format("bpf {:<16} {:>12}", "threads_missed", missed));
    }
    return lines;
}

}  // namespace echion::cli
