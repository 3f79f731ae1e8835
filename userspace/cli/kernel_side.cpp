#include "cli/kernel_side.h"

#include <errno.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

#include "base/clock.h"
#include "cli/channel.h"
#include "console/message.h"
#include "engine/perf/perf_event.h"
#include "engine/perf/tick_timers.h"

namespace echion::cli {
namespace {

constexpr Error kNoWaiting{
    ErrorKind::kRefused, EPERM,
    "its sampler may not wait for signals (rt_sigtimedwait is refused: by its seccomp filter?)"};

control::Armed make_answer(std::uint64_t interval_ns) {
    control::Armed answer{};
    answer.header = make_header<control::Armed>(control::MessageType::kArmed);
    answer.interval_ns = interval_ns;
    return answer;
}

/// Of what has been started; what falls short of the wish is told to the user.
control::Armed make_answer(pid_t pid, const engine::TickReport& started, std::uint64_t wish_ns) {
    const auto interval_ns = static_cast<std::uint64_t>(started.interval_ns);
    if (interval_ns > wish_ns) {
        say("process {}: the kernel allows one tick in {} us (kernel.perf_event_max_sample_rate)",
            pid, interval_ns / 1000);
    }
    if (started.threads_without_event != 0) {
        say("process {}: the stacks of {} threads are read from outside: too many open files", pid,
            started.threads_without_event);
    }
    control::Armed answer = make_answer(interval_ns);
    answer.armed = 1;
    answer.snapshots = started.snapshots ? 1 : 0;
    return answer;
}

/// Why a process is not ticked, with the remedy if there is one.
std::string explain(pid_t pid, const Error& error) {
    if (!engine::may_signal(pid)) {
        return engine::explain_signal(pid).text();
    }
    if (error.system_errno == EMFILE || error.system_errno == ENFILE) {
        return engine::explain_perf("open a perf event of each thread", error.system_errno,
                                    engine::read_privileges())
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
    for (const engine::HostEngineKind& kind : engine::host_engines()) {
        if (options.engine == kind.name) {
            wanted_.push_back(&kind);
        } else if (options.engine != kAutoEngine || (kind.cpu_time_only && !options.cpu)) {
            continue;
        } else if (!options.cpu && options.interval_ns < kind.least_wall_interval_ns) {
            missing_.push_back(
                {&kind,
                 fmt::format("at wall-time intervals below {} us the kernel's ticks cost the "
                             "program more than the sampler's own (--engine {} has them all the "
                             "same)",
                             kind.least_wall_interval_ns / 1000, kind.name)});
        } else {
            wanted_.push_back(&kind);
        }
    }
    if (wanted_.empty()) {
        return;
    }
    // Signals are for the thread that the event loop runs in.
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    // Without a thread it is done later, in this one; libstdc++ has moved from what is captured
    // then.
    opening_ = std::async([this] { return open_best(); });
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

KernelSide::Opened KernelSide::open_best() const {
    Opened opened;
    for (const engine::HostEngineKind* kind : wanted_) {
        auto engine = kind->open();
        if (engine) {
            opened.kind = kind;
            opened.engine = std::move(*engine);
            break;
        }
        opened.missing.push_back({kind, engine.error().text()});
    }
    return opened;
}

void KernelSide::settle() const {
    if (!opening_.valid()) {
        return;
    }
    Opened opened = opening_.get();
    engine_ = std::move(opened.engine);
    kind_ = opened.kind;
    std::move(opened.missing.begin(), opened.missing.end(), std::back_inserter(missing_));
}

bool KernelSide::is_insisted_on() const {
    return options_.engine != kAutoEngine && options_.engine != kClockEngine;
}

std::string KernelSide::why_refused(std::optional<pid_t> target) const {
    if (!is_insisted_on()) {
        return "";
    }
    if (!has_engine()) {
        return missing_.empty() ? "" : missing_.front().why;
    }
    return target ? engine_->why_not(*target) : "";
}

std::string KernelSide::why_not_better() const {
    settle();
    std::string text;
    for (const Missing& one : missing_) {
        text += fmt::format("{}not {}: {}", text.empty() ? "" : "; ", one.kind->name, one.why);
    }
    return text;
}

tl::unexpected<std::string> KernelSide::refuse(const std::string& why) {
    ++refusals_;
    return tl::unexpected(fmt::format("--engine {} cannot be had: {}", options_.engine, why));
}

tl::expected<std::vector<engine::ExtraFd>, std::string> KernelSide::watch(
    const AgentProcess& process) {
    using Fds = std::vector<engine::ExtraFd>;
    const pid_t pid = process.pid();
    if (!process.is_pinned() && is_insisted_on()) {
        return refuse("without pidfds and /proc it is not sure which process is the agent's");
    }
    if (!process.is_pinned()) {
        return Fds();
    }
    if (const std::string why = why_refused(pid); !why.empty()) {
        return has_ended(pid, true) ? tl::expected<Fds, std::string>(Fds()) : refuse(why);
    }
    if (!has_engine()) {
        return Fds();
    }
    auto fds = engine_->watch(pid);
    if (fds && !fds->empty()) {
        if (auto status = process.check(); !status) {
            forget(pid);  // may be another process by now
            fds = tl::unexpected(engine::Refusal{"", status.error()});
        }
    }
    if (fds) {
        return std::move(*fds);
    }
    const engine::Refusal& refusal = fds.error();
    if (has_ended(pid, is_insisted_on() || refusal.error.system_errno == ESRCH)) {
        return Fds();
    }
    const std::string why = refusal.why.empty() ? describe(refusal.error) : refusal.why;
    if (is_insisted_on()) {
        return refuse(why);
    }
    say("process {} is sampled without {}: {}", pid, kind_->long_name, why);
    return Fds();
}

tl::expected<control::Armed, std::string> KernelSide::arm(const AgentProcess& process,
                                                          const control::Arm& request) {
    const pid_t pid = process.pid();
    Status checked = process.check();
    const bool may_wait = request.signal != control::kNoSignal;
    if (checked && may_wait && request.signal != control::kTickSignal) {
        checked = fail(ErrorKind::kProtocol, "the agent's request for ticks is not valid");
    }
    Result<engine::TickReport> started = tl::unexpected(checked ? kNoWaiting : checked.error());
    if (checked && may_wait) {
        started = has_engine() ? engine_->arm(pid, request, !options_.cpu,
                                              static_cast<std::int64_t>(options_.interval_ns))
                               : fail(ErrorKind::kProtocol, "start the ticks: none are to be had");
        // What was done to a number was done to this process if the number still is its own.
        checked = process.check();
    }
    if (started && checked) {
        least_interval_ns_ = least_interval_ns_ == 0
                                 ? started->interval_ns
                                 : std::min(least_interval_ns_, started->interval_ns);
        return make_answer(pid, *started, options_.interval_ns);
    }
    const Error& cause = checked ? started.error() : checked.error();
    const bool is_missing = cause.kind == ErrorKind::kProtocol || cause.system_errno == ESRCH;
    if (is_missing && has_ended(pid, true)) {
        forget(pid);
        return tl::unexpected(std::string());  // what is missing went with it
    }
    if (!checked || started.error().kind == ErrorKind::kProtocol) {
        forget(pid);
        return tl::unexpected(cause.system_errno == ESRCH ? "" : describe(cause));
    }
    control::Armed refused = make_answer(options_.interval_ns);
    refused.system_errno = started.error().system_errno;
    // With ESRCH it is the sampler that has ended, as it was told to.
    if (started.error().system_errno == ESRCH || has_ended(pid, is_insisted_on())) {
        return refused;
    }
    const std::string why = may_wait ? explain(pid, started.error()) : kNoWaiting.what;
    if (is_insisted_on()) {
        return refuse(why);
    }
    say("process {} is not ticked by the kernel: {}", pid, why);
    return refused;
}

std::vector<model::CountedCpu> KernelSide::count_cpu(pid_t pid, bool with_living) const {
    return has_engine() ? engine_->count_cpu(pid, with_living) : std::vector<model::CountedCpu>();
}

void KernelSide::forget(pid_t pid) {
    if (has_engine()) {
        engine_->forget(pid);
    }
}

void KernelSide::note_ended() {
    if (has_engine()) {
        engine_->note_ended();
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
    if (has_engine()) {
        engine_->keep_ticking();
    }
}

std::vector<std::string> KernelSide::report() const {
    std::vector<std::string> lines;
    settle();
    for (const Missing& one : missing_) {
        lines.push_back(fmt::format("without {}: {}", one.kind->long_name, one.why));
    }
    if (engine_ != nullptr) {
        for (const auto& [name, value] : engine_->figures()) {
            lines.push_back(fmt::format("{} {:<16} {:>12}", kind_->name, name, value));
        }
    }
    return lines;
}

}  // namespace echion::cli
