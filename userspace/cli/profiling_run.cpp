#include "cli/profiling_run.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "cli/agent_facts.h"
#include "cli/open_profile.h"
#include "cli/quantities.h"
#include "console/message.h"
#include "platform/process_info.h"
#include "stream/counters.h"

namespace echion::cli {
namespace {

constexpr std::int64_t kMs = 1'000'000;

/// Of one ring in one go, then the others have their turn.
constexpr std::size_t kDrainBytes = std::size_t{4} << 20;
/// The same in time, and of all rings, then signals and other events have theirs. A few bytes of a
/// ring can make much work.
constexpr std::int64_t kDrainOneNs = 20 * kMs;
constexpr std::int64_t kDrainAllNs = 50 * kMs;
/// Children that are not sampled are looked at so often, and in one go for so long, that rings wait
/// for it a twentieth of the time at most, however many children there are.
constexpr std::int64_t kChildrenEveryNs = 100 * kMs;
constexpr std::int64_t kChildrenNs = 5 * kMs;
/// The same when sampling ends, of what a short program has.
constexpr std::int64_t kLastChildrenNs = 50 * kMs;
/// Of all rings when sampling has ended, in this program's CPU time; see the same of one in
/// Session.
constexpr std::int64_t kMaxEndingCpuNs = 10 * kNanosPerSecond;
/// How often it is looked whether an output that did not keep up does again.
constexpr std::uint64_t kStallDelayNs = 10 * kMs;
constexpr std::uint64_t kWatchEveryNs = 50 * kMs;
constexpr std::int64_t kFlushEveryNs = kNanosPerSecond;
/// An agent needs a tick or two to stop. One whose process is stopped or starved never answers, and
/// finds the channel hung up when it runs again.
constexpr std::uint64_t kStopDeadlineNs = 2'000 * kMs;
/// More at a time is no program that somebody profiles; each costs a ring's address space and two
/// descriptors, of which there are 1024 by default.
constexpr std::size_t kMaxAgents = 256;
/// An agent says Hello at once; on a machine that is out of breath it may take a moment.
constexpr std::int64_t kHelloDeadlineNs = 10 * kNanosPerSecond;
/// A program's exec ends its threads, the agent's too, before it shows as another one: for so long.
constexpr int kExecutingMs = 20;

/// Whether all threads of a process are halted from outside, for as long as somebody likes.
bool does_not_run(pid_t pid) {
    const auto info = read_process_info(pid);
    return (info && info->state == 'T') || is_frozen(pid);
}

}  // namespace

struct ProfilingRun::Agent {
    Agent(ProfilingRun& run, const SessionSettings& settings, Channel channel,
          AgentProcess new_process)
        : process(std::move(new_process)),
          session(
              *run.profile_, settings, std::move(channel), process.pid(),
              [this, &run] { return run.engine_.watch(process); },
              [this, &run](const control::Arm& request) { return run.arm(*this, request); },
              [this, &run](bool with_living) {
                  return run.engine_.count_cpu(process.pid(), with_living);
              }) {
        session.set_start_ticks(process.start_ticks());
    }

    AgentProcess process;
    Session session;
    std::int64_t since_ns = monotonic_ns();
    bool is_begun = false;  // its first tick has been told of
    EventLoop::Source channel_source = 0;
    EventLoop::Source process_source = 0;
    bool is_detached = false;
};

ProfilingRun::ProfilingRun(EventLoop& loop, const Options& options, EngineChoice& engine)
    : loop_(loop), options_(options), engine_(engine) {
    settings_.interval_ns = options_.interval_ns;
    settings_.mode = options_.cpu ? control::Mode::kCpu : control::Mode::kWall;
    settings_.flags = options_.stealth ? control::kStealth : 0U;
    settings_.flags |= options_.follow ? 0U : control::kNoFollow;
    settings_.max_frames = options_.max_frames;
    settings_.tasks = options_.tasks;
}

ProfilingRun::~ProfilingRun() = default;

Result<std::unique_ptr<ProfilingRun>> ProfilingRun::make(EventLoop& loop, const Options& options,
                                                         EngineChoice& engine, pid_t pid_for_name,
                                                         std::int64_t start_deadline_ns) {
    std::unique_ptr<ProfilingRun> run(new ProfilingRun(loop, options, engine));
    ProfilingRun* self = run.get();
    self->start_deadline_ns_ = start_deadline_ns;
    const std::pair<std::optional<Timer>*, EventLoop::Handler> timers[] = {
        {&self->drain_timer_, [self] { self->drain_all(); }},
        {&self->exposure_timer_, [self] { self->end_exposure(); }},
        {&self->deadline_timer_,
         [self] {
             for (const auto& agent : self->agents_) {
                 agent->session.end();
             }
             self->settle_ended();
         }},
        {&self->output_timer_, [self] { self->watch_output(); }}};
    for (const auto& [timer, handler] : timers) {
        auto made = Timer::make(loop, handler);
        if (!made) {
            return tl::unexpected(made.error());
        }
        timer->emplace(std::move(*made));
    }
    if (const std::string why = self->engine_.why_refused(options.attach_pid); !why.empty()) {
        say("--engine {} cannot be had: {}; or leave --engine out for the best that is allowed",
            options.engine->name, why);
        return fail(ErrorKind::kRefused, "the engine asked for is refused");
    }
    auto profile = open_profile(options, pid_for_name);
    if (!profile) {
        return tl::unexpected(profile.error());
    }
    self->profile_ = std::move(*profile);
    return run;
}

void ProfilingRun::add_agent(Channel channel, pid_t pid, UniqueFd descriptor,
                             const std::optional<ProgramImage>& image) {
    ++agents_seen_;
    if (stopping_) {
        return;  // closing the channel tells it
    }
    auto process = AgentProcess::pin(pid, std::move(descriptor), image);
    if (!process) {
        if (process.error().system_errno != ESRCH) {
            complaints_.tell("process {} cannot be sampled: {}", pid, describe(process.error()));
        } else if (options_.verbose) {
            say("process {} ended before its first sample", pid);
        }
        if (gone_handler_) {
            gone_handler_();
        }
        return;
    }
    replace_agent(pid);
    if (agents_.size() >= kMaxAgents) {
        complaints_.tell("process {} is not sampled: there are {} already", pid, agents_.size());
        return;
    }
    SessionSettings settings = settings_;
    settings.flags |= engine_.agent_flags(*process);
    agents_.push_back(
        std::make_unique<Agent>(*this, settings, std::move(channel), std::move(*process)));
    Agent& agent = *agents_.back();
    const auto on_event = [this, &agent] {
        agent.session.on_readable();
        after_event(agent);
    };
    if (auto source = loop_.add(agent.session.fd(), on_event)) {
        agent.channel_source = *source;
    }
    // A child that was forked without the C library's knowledge keeps the channel open behind its
    // parent: the process itself tells its end. Without that the channel has to do.
    if (agent.process.descriptor() >= 0) {
        auto source = loop_.add(agent.process.descriptor(), [this, &agent] {
            agent.session.on_readable();  // its last words
            agent.session.end();
            after_event(agent);
        });
        agent.process_source = source.value_or(0);
        if (source) {
            agent.session.expect_end();
        }
    }
    if (options_.verbose) {
        say("process {}: an agent has connected", pid);
    }
    if (pace_.is_resting()) {
        pace_.begin();
        drain_timer_->arm(pace_.delay_ns());
    }
}

void ProfilingRun::miss_agent(const Error& error) {
    ++agents_seen_;
    complaints_.tell("a Python process is not sampled: {}", describe(error));
}

void ProfilingRun::refuse(const std::string& why) { complaints_.tell("{}", why); }

NeededRights ProfilingRun::needed_rights() const {
    NeededRights needed;
    needed.engine = engine_.needed_capabilities();
    needed.other_processes = true;  // where the system hides them from others (hidepid)
    needed.output = output::find_own_descriptor(options_.output) ? "" : profile_->path();
    return needed;
}

void ProfilingRun::replace_agent(pid_t pid) {
    // A process has one agent. The former one went with its program; that its channel has not hung
    // up is because somebody else, a child of that program, holds it, too.
    const auto former = std::find_if(agents_.begin(), agents_.end(), [pid](const auto& agent) {
        return agent->process.pid() == pid && !agent->is_detached;
    });
    if (former != agents_.end()) {
        (*former)->session.on_readable();
        (*former)->session.end();
        detach(**former);
        settle_ended();
    }
}

tl::expected<control::Armed, std::string> ProfilingRun::arm(const Agent& agent,
                                                            const control::Arm& request) {
    auto answer = engine_.arm(agent.process, request);
    if (answer && answer->armed != 0) {
        profile_->note_ticks(engine_.kind().profile_name, answer->interval_ns);
    }
    return answer;
}

void ProfilingRun::after_event(Agent& agent) {
    if (agent.session.is_cut_off() && agent.channel_source != 0) {
        release_channel(agent);
        if (options_.verbose) {
            say("process {} has closed its end of the channel: it is sampled on, to its end",
                agent.session.pid());
        }
    }
    if (agent.session.was_sampled() && !agent.session.is_armed()) {
        profile_->note_ticks(engine::own_clock().profile_name, options_.interval_ns);
    }
    if (agent.session.was_sampled() && !std::exchange(agent.is_begun, true)) {
        if (options_.verbose) {
            tell_about_agent(agent.session, engine_);
        }
    }
    if (agent.session.has_ended()) {
        remove(agent);
        return;
    }
    if (agent.session.is_emptying()) {
        detach(agent);
    }
    if (options_.attach_pid && agent.session.state() == Session::State::kConfigured) {
        begin_exposure();  // Python runs already: the time is counted from the attachment
    }
    if (agent.session.was_sampled() && !std::exchange(first_sample_told_, true)) {
        if (first_sample_handler_) {
            first_sample_handler_();
        }
        begin_exposure();
        if (exposure_over_) {
            stop();
        }
    }
}

void ProfilingRun::begin_exposure() {
    if (options_.exposure_ns && !std::exchange(exposure_begun_, true)) {
        exposure_timer_->arm(*options_.exposure_ns);
    }
}

void ProfilingRun::end_exposure() {
    // Not without a sample, if one comes before the start's deadline.
    exposure_over_ = true;
    if (first_sample_told_) {
        stop();
    }
}

void ProfilingRun::drain_all() {
    if (is_finishing_) {
        return;
    }
    const std::int64_t now = monotonic_ns();
    const std::int64_t cpu_before_ns = read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    const unsigned fullest = drain_rings(now);
    if (stopping_) {
        ending_cpu_ns_ += read_clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_before_ns;
    }
    engine_.note_ended();
    const std::int64_t drained_ns = monotonic_ns();
    if (drained_ns >= next_children_ns_ || now >= next_flush_ns_) {
        look_at_children(now >= next_flush_ns_, drained_ns + kChildrenNs);
        next_children_ns_ = drained_ns + kChildrenEveryNs;
    }
    if (now >= next_flush_ns_) {
        // Not at the first look: a program that is over at once has no stack in two parts.
        for (const auto& agent : agents_) {
            if (next_flush_ns_ != kLongAgoNs) {
                agent->session.checkpoint();
            }
        }
        profile_->flush();
        engine_.keep_ticking();
        stop_deserted();
        look_at_processes(now);
        look_for_lost_samplers(now);
        next_flush_ns_ = now + kFlushEveryNs;
    }
    pace_.note(fullest);
    settle_ended();
    keep_bounds();
    if (ending_cpu_ns_ > kMaxEndingCpuNs) {
        end_all_at_once();
    }
    look_at_output(monotonic_ns());
    if (profile_->has_failed()) {
        stop();  // nobody will ever see more of it
    }
    if (is_finishing_ || (agents_.empty() && lost_.is_empty())) {
        pace_.rest();  // until the next one comes
    } else {
        drain_timer_->arm(profile_->is_behind() ? kStallDelayNs : pace_.delay_ns());
    }
}

/// Each in its turn, as far as the time reaches; the next time goes on from there. Returns how full
/// the fullest was.
unsigned ProfilingRun::drain_rings(std::int64_t now_ns) {
    const std::int64_t until_ns = now_ns + kDrainAllNs;
    unsigned fullest = 0;
    std::size_t drained = 0;
    for (std::int64_t at_ns = now_ns; drained < agents_.size() && at_ns < until_ns; ++drained) {
        const auto& agent = agents_[(next_to_drain_ + drained) % agents_.size()];
        fullest = std::max(
            fullest, agent->session.drain(kDrainBytes, std::min(until_ns, at_ns + kDrainOneNs)));
        at_ns = monotonic_ns();
    }
    if (drained < agents_.size()) {
        fullest = 100;
    }
    next_to_drain_ = agents_.empty() ? 0 : (next_to_drain_ + drained) % agents_.size();
    return fullest;
}

void ProfilingRun::look_at_output(std::int64_t now_ns) {
    output_watch_.look(
        {profile_->is_behind(), profile_->waiting_bytes(), profile_->written_bytes()},
        !agents_.empty(), now_ns);
    cut_.output_stalled_ns = output_watch_.stalled_ns();
}

/// What processes can make this program hold and write is bounded for the run. The process that
/// takes most of it pays first.
void ProfilingRun::keep_bounds() {
    for (;;) {
        std::size_t total = 0;
        Agent* largest = nullptr;
        std::size_t largest_bytes = 0;
        for (const auto& agent : agents_) {
            const std::size_t bytes = agent->session.memory_bytes();
            total += bytes;
            if (bytes > largest_bytes) {
                largest = agent.get();
                largest_bytes = bytes;
            }
        }
        if (total <= options_.max_memory_bytes || largest == nullptr) {
            break;
        }
        end_agent(*largest, fmt::format("names and stacks take more than {} of memory in all, most "
                                        "of it for this process; --max-memory allows more",
                                        format_size(options_.max_memory_bytes)));
    }
    const bool is_shared = agents_.size() > 1 && !stopping_;
    for (std::size_t i = agents_.size(); is_shared && i-- > 0;) {
        if (i < agents_.size() &&
            agents_[i]->session.output_bytes() > options_.max_output_bytes / 2) {
            end_agent(*agents_[i], fmt::format("it has written more than half of {}, which is for "
                                               "all processes; --max-output allows more",
                                               format_size(options_.max_output_bytes)));
        }
    }
    if (profile_->is_full() && !stopping_) {
        say("the profile has reached {}: sampling ends here; --max-output allows more, a longer "
            "interval (-i) makes less",
            format_size(options_.max_output_bytes));
        stop();
    }
}

void ProfilingRun::end_agent(Agent& agent, std::string complaint) {
    ++cut_.processes;
    agent.session.end_at_once(std::move(complaint));
    remove(agent);
}

void ProfilingRun::stop_deserted() {
    // A sampler that the kernel wakes for CPU time only would not see that it is the last thread
    // there is, and keep the process from ending.
    for (const auto& agent : agents_) {
        if (agent->session.pid() > 0 &&
            look_at_other_threads(agent->session.pid(), control::kAgentThreads) ==
                OtherThreads::kNone) {
            agent->session.request_stop();
        }
    }
}

void ProfilingRun::look_at_children(bool at_all_threads, std::int64_t until_ns) {
    std::vector<ForkedChildren::Key> parents;
    for (const auto& agent : agents_) {
        if (agent->session.was_sampled() && !agent->is_detached) {
            parents.emplace_back(agent->session.pid(), agent->process.start_ticks());
        }
    }
    children_.look(parents, at_all_threads, until_ns);
}

void ProfilingRun::look_at_processes(std::int64_t now_ns) {
    for (const auto& agent : agents_) {
        Session& session = agent->session;
        if (session.state() == Session::State::kWaiting &&
            now_ns - agent->since_ns > kHelloDeadlineNs) {
            session.end_with("the agent has not said what it is");
        } else if (exposure_over_ && session.state() == Session::State::kConfigured &&
                   does_not_run(session.pid())) {
            session.end_with(
                "it has been stopped or frozen since it was attached to, and the time is over that "
                "was asked for; let it go on (kill -CONT, docker unpause), and try again");
        } else if (options_.attach_pid && !session.was_sampled() && !stopping_ &&
                   (session.state() == Session::State::kConfigured ||
                    session.state() == Session::State::kStopping) &&
                   now_ns - agent->since_ns > start_deadline_ns_) {
            session.stop_late(fmt::format(
                "the agent has not begun to sample in {} s; is the process stopped, or does it get "
                "no CPU time?",
                start_deadline_ns_ / kNanosPerSecond));
        } else if (agent->process.is_pinned()) {
            const auto status = agent->process.check();
            if (!status && status.error().kind == ErrorKind::kRefused) {
                session.on_readable();  // most have hung up by then
                if (!session.has_ended()) {
                    session.end_with(describe(status.error()));
                }
            }
        }
    }
}

void ProfilingRun::look_for_lost_samplers(std::int64_t now_ns) {
    const auto is_sampled = [this](pid_t pid) {
        return std::ranges::any_of(
            agents_, [pid](const auto& agent) { return agent->process.pid() == pid; });
    };
    lost_.look(now_ns, is_sampled, [this](pid_t pid) {
        complaints_.tell(
            "process {} was not sampled to its end: its sampler has ended, though nobody told "
            "it to, and the process goes on; a seccomp filter of the program may have killed "
            "that thread",
            pid);
    });
}

void ProfilingRun::settle_ended() {
    for (std::size_t i = agents_.size(); i-- > 0;) {
        if (i >= agents_.size()) {
            continue;  // a handler has removed others
        }
        if (agents_[i]->session.has_ended()) {
            remove(*agents_[i]);
        } else if (agents_[i]->session.is_emptying()) {
            detach(*agents_[i]);
        }
    }
}

void ProfilingRun::release_channel(Agent& agent) {
    loop_.remove(std::exchange(agent.channel_source, 0));
    agent.session.release_channel();
}

/// Of an agent that has nothing more to say. What its ring holds may still be to be taken; its
/// process may have another agent meanwhile.
void ProfilingRun::detach(Agent& agent) {
    if (std::exchange(agent.is_detached, true)) {
        return;
    }
    engine_.forget(agent.session.pid());
    release_channel(agent);
    loop_.remove(std::exchange(agent.process_source, 0));
}

void ProfilingRun::remove(Agent& agent) {
    const Session& session = agent.session;
    // What has not begun when sampling is ended does not begin any more: its sampler may have gone.
    const bool is_given_up = stopping_ && !session.was_sampled();
    const bool is_at_fault = !session.complaint().empty() && !is_given_up;
    if (is_at_fault && !session.was_sampled() && options_.attach_pid) {
        agent.process.wait_for_change(kExecutingMs);
    }
    // What could not be done with an agent whose program is no more is not its fault.
    if (is_at_fault && (session.was_sampled() || !agent.process.has_executed())) {
        complaints_.tell("process {} {}: {}", session.pid(),
                         session.was_sampled() ? "was not sampled to its end" : "cannot be sampled",
                         session.complaint());
    } else if (options_.verbose) {
        say("process {}: {}", session.pid(),
            session.was_sampled() ? "sampling has ended" : "ended before its first sample");
    }
    cut_.ring_bytes += session.undecoded_bytes();
    detach(agent);
    if (!options_.attach_pid && !stopping_ && !is_at_fault && session.was_sampled() &&
        agent.process.is_pinned() && !is_ending(session.pid())) {
        lost_.add(std::move(agent.process), monotonic_ns());
    }
    std::erase_if(agents_, [&](const auto& one) { return one.get() == &agent; });
    if (gone_handler_) {
        gone_handler_();
    }
    if (stopping_ && agents_.empty()) {
        finish();
    }
}

void ProfilingRun::stop() {
    if (std::exchange(stopping_, true)) {
        return;
    }
    exposure_timer_->disarm();
    look_at_children(true, monotonic_ns() + kLastChildrenNs);
    for (const auto& agent : agents_) {
        agent->session.request_stop();
    }
    deadline_timer_->arm(kStopDeadlineNs);
    if (pace_.is_resting()) {
        output_watch_.restart(monotonic_ns());
    }
    output_timer_->arm(kWatchEveryNs);
    if (agents_.empty()) {
        finish();
    } else {
        settle_ended();
    }
}

void ProfilingRun::hurry(bool may_force) {
    if (!stopping_) {
        return;  // the command's, which goes on
    }
    if (output_watch_.is_hurried() && (!may_force || finished_)) {
        return;
    }
    if (output_watch_.hurry(monotonic_ns())) {
        end_all_at_once();
    }
}

void ProfilingRun::end_all_at_once() {
    while (!agents_.empty()) {
        agents_.back()->session.end_at_once();
        remove(*agents_.back());
    }
}

/// While the end is waited for: tells what it waits for, and ends it.
void ProfilingRun::watch_output() {
    if (finished_) {
        return;
    }
    const std::int64_t now = monotonic_ns();
    look_at_output(now);
    if (output_watch_.is_given_up(now)) {
        give_up_output();
        return;
    }
    if (output_watch_.is_stuck(now) && !std::exchange(is_waiting_told_, true)) {
        say("{} takes nothing: {} bytes of the profile wait to be written; Ctrl-C gives them up",
            profile_->path(), profile_->waiting_bytes());
    }
    output_timer_->arm(kWatchEveryNs);
}

void ProfilingRun::give_up_output() {
    end_all_at_once();
    profile_->give_up();
    complete();
}

void ProfilingRun::finish() {
    if (std::exchange(is_finishing_, true)) {
        return;
    }
    look_for_lost_samplers(monotonic_ns());
    if (options_.verbose && lost_.unwatched() != 0) {
        say("{} processes whose agents had gone were not watched for what became of their samplers",
            lost_.unwatched());
    }
    lost_.clear();
    drain_timer_->disarm();
    deadline_timer_->disarm();
    // Python that ended before its first tick leaves a profile without samples; what is no Python,
    // or cannot be sampled, leaves none.
    engine_.look_at_rate_limit();
    children_.settle();
    cut_.children = children_.count();
    const auto rate = engine_.lowered_rate();
    profile_->begin_finish(agents_seen_ != 0 && complaints_.count() == 0 && leaves_empty_file_,
                           {engine_.threads_refused(), rate ? rate->ticks_per_second : 0}, cut_);
    if (!profile_->has_ended()) {
        if (auto source = loop_.add(profile_->ended_fd(), [this] { complete(); })) {
            output_source_ = *source;
            return;
        }
        profile_->give_up();
    }
    complete();
}

/// The output has taken all, or is given up.
void ProfilingRun::complete() {
    if (std::exchange(finished_, true)) {
        return;
    }
    output_timer_->disarm();
    loop_.remove(output_source_);
    profile_status_ = profile_->status();
    if (finished_handler_) {
        finished_handler_();
    }
}

RunSummary ProfilingRun::summary() const {
    return RunSummary({options_, *profile_, engine_, children_, cut_, agents_seen_,
                       complaints_.count(), ending_signal_, leaves_empty_file_});
}

Outcome ProfilingRun::write_summary() { return summary().write(profile_status_); }

bool ProfilingRun::deliver() {
    if (const Status status = profile_->deliver(); !status) {
        summary().tell_not_complete(status.error(), profile_->delivered_bytes());
        return false;
    }
    return true;
}

}  // namespace echion::cli
