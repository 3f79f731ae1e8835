#include "cli/engine_choice.h"

#include <errno.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

#include "base/clock.h"
#include "cli/channel.h"
#include "console/message.h"
#include "platform/process_handle.h"

namespace echion::cli {
namespace {

constexpr Error kNoWaiting{
    ErrorKind::kRefused, EPERM,
    "its sampler may not wait for signals (rt_sigtimedwait is refused: by its seccomp filter?)"};

constexpr Error kNoTicks{ErrorKind::kProtocol, 0, "start the ticks: none are to be had"};

control::Armed make_answer(std::uint64_t interval_ns) {
    control::Armed answer{};
    answer.header = make_header<control::Armed>(control::MessageType::kArmed);
    answer.interval_ns = interval_ns;
    return answer;
}

/// Of what has been started; what falls short of the wish is told to the user.
control::Armed make_answer(pid_t pid, const engine::TickReport& started) {
    for (const std::string& shortfall : started.shortfalls) {
        say("process {}: {}", pid, shortfall);
    }
    control::Armed answer = make_answer(static_cast<std::uint64_t>(started.interval_ns));
    answer.armed = 1;
    answer.snapshots = started.snapshots ? 1 : 0;
    return answer;
}

std::string explain(const engine::Refusal& refusal) {
    return refusal.why.empty() ? describe(refusal.error) : refusal.why;
}

}  // namespace

/// Whether a process that something could not be had for has ended: then nothing is to be said.
/// `waits`: a little, for one whose threads are ending; in all so long that processes which want to
/// be waited for do not make the program deaf.
bool EngineChoice::has_ended(pid_t pid, bool waits) {
    constexpr std::int64_t kLastMomentsNs = 200'000'000;
    const auto process = open_process(pid);
    if (!process) {
        return process.error().system_errno == ESRCH;
    }
    pollfd entry{process->get(), POLLIN, 0};
    const std::int64_t since_ns = monotonic_ns();
    const std::int64_t may_wait_ns = waits ? std::min(kLastMomentsNs, patience_ns_) : 0;
    const bool is_over = poll(&entry, 1, static_cast<int>(may_wait_ns / 1'000'000)) == 1;
    patience_ns_ -= std::min(patience_ns_, monotonic_ns() - since_ns);
    return is_over;
}

EngineChoice::EngineChoice(const Options& options) : options_(options) {
    for (const engine::EngineKind& kind : engine::engines()) {
        if (kind.open == nullptr) {
            continue;
        }
        if (options.engine == &kind) {
            wanted_.push_back(&kind);
        } else if (options.engine != nullptr || (kind.cpu_time_only && !options.cpu)) {
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

EngineChoice::Opened EngineChoice::open_best() const {
    Opened opened;
    for (const engine::EngineKind* kind : wanted_) {
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

void EngineChoice::settle() const {
    if (!opening_.valid()) {
        return;
    }
    Opened opened = opening_.get();
    engine_ = std::move(opened.engine);
    kind_ = opened.kind;
    std::move(opened.missing.begin(), opened.missing.end(), std::back_inserter(missing_));
}

bool EngineChoice::is_insisted_on() const {
    return options_.engine != nullptr && options_.engine->open != nullptr;
}

std::string EngineChoice::why_refused(std::optional<pid_t> target) const {
    if (!is_insisted_on()) {
        return "";
    }
    if (!has_engine()) {
        return missing_.empty() ? "" : missing_.front().why;
    }
    return target ? engine_->why_not(*target) : "";
}

std::string EngineChoice::why_not_better() const {
    settle();
    std::string text;
    for (const Missing& one : missing_) {
        text += fmt::format("{}not {}: {}", text.empty() ? "" : "; ", one.kind->name, one.why);
    }
    return text;
}

tl::unexpected<std::string> EngineChoice::refuse(const std::string& why) {
    ++refusals_;
    return tl::unexpected(fmt::format("--engine {} cannot be had: {}", options_.engine->name, why));
}

tl::expected<std::vector<engine::ExtraFd>, std::string> EngineChoice::watch(
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
    const std::string why = explain(refusal);
    if (is_insisted_on()) {
        return refuse(why);
    }
    say("process {} is sampled without {}: {}", pid, kind_->long_name, why);
    return Fds();
}

tl::expected<control::Armed, std::string> EngineChoice::arm(const AgentProcess& process,
                                                            const control::Arm& request) {
    const pid_t pid = process.pid();
    Status checked = process.check();
    const bool may_wait = request.signal != control::kNoSignal;
    if (checked && may_wait && request.signal != control::kTickSignal) {
        checked = fail(ErrorKind::kProtocol, "the agent's request for ticks is not valid");
    }
    tl::expected<engine::TickReport, engine::Refusal> started =
        tl::unexpected(checked ? engine::Refusal{kNoWaiting.what, kNoWaiting}
                               : engine::Refusal{"", checked.error()});
    if (checked && may_wait && !has_engine()) {
        started = tl::unexpected(engine::Refusal{"", kNoTicks});
    } else if (checked && may_wait) {
        started = engine_->arm(pid, request, !options_.cpu,
                               static_cast<std::int64_t>(options_.interval_ns));
        // What was done to a number was done to this process if the number still is its own.
        checked = process.check();
    }
    if (started && checked) {
        return make_answer(pid, *started);
    }
    const Error& cause = checked ? started.error().error : checked.error();
    const bool is_missing = cause.kind == ErrorKind::kProtocol || cause.system_errno == ESRCH;
    if (is_missing && has_ended(pid, true)) {
        forget(pid);
        return tl::unexpected(std::string());  // what is missing went with it
    }
    if (!checked || cause.kind == ErrorKind::kProtocol) {
        forget(pid);
        return tl::unexpected(cause.system_errno == ESRCH ? "" : describe(cause));
    }
    control::Armed refused = make_answer(options_.interval_ns);
    refused.system_errno = cause.system_errno;
    // With ESRCH it is the sampler that has ended, as it was told to.
    if (cause.system_errno == ESRCH || has_ended(pid, is_insisted_on())) {
        return refused;
    }
    const std::string why = explain(started.error());
    if (is_insisted_on()) {
        return refuse(why);
    }
    say("process {} is not ticked by the kernel: {}", pid, why);
    return refused;
}

std::vector<model::CountedCpu> EngineChoice::count_cpu(pid_t pid, bool with_living) const {
    return has_engine() ? engine_->count_cpu(pid, with_living) : std::vector<model::CountedCpu>();
}

void EngineChoice::forget(pid_t pid) {
    if (has_engine()) {
        engine_->forget(pid);
    }
}

void EngineChoice::note_ended() {
    if (has_engine()) {
        engine_->note_ended();
    }
}

void EngineChoice::look_at_rate_limit() {
    if (has_engine()) {
        engine_->look_at_rate_limit();
    }
}

void EngineChoice::keep_ticking() {
    look_at_rate_limit();
    if (has_engine()) {
        engine_->keep_ticking();
    }
}

std::vector<std::string> EngineChoice::report() const {
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
