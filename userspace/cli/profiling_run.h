#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "cli/agent_process.h"
#include "cli/complaints.h"
#include "cli/drain_pace.h"
#include "cli/engine_choice.h"
#include "cli/forked_children.h"
#include "cli/lost_samplers.h"
#include "cli/options.h"
#include "cli/output_watch.h"
#include "cli/profile.h"
#include "cli/run_summary.h"
#include "cli/session.h"
#include "isolation/kept_rights.h"
#include "platform/event_loop.h"

namespace echion::cli {

/// So long may an agent in a Python that runs already take to its first sample.
constexpr std::int64_t kStartDeadlineNs = 10 * kNanosPerSecond;

/// The sampling part of a run, for launch and attach alike: takes agents in as they come, drains
/// their rings from the event loop, ends after the exposure time or when told to, and leaves a
/// finished profile.
///
///     ProfilingRun::make(loop, options, engine, pid)            the output is open now
///     add_agent(channel, pid) …                                any number, at any time
///     stop()            asks all agents to stop; when the last has, or after a bounded wait, and
///                       the output has taken all, the handler given to on_finished() runs, once
///     hurry()           a user who wants the end: an output that takes nothing is not waited for
///     write_summary()   what the user should know, on standard error
class ProfilingRun {
  public:
    /// Opens the output; fails before anything else has happened. kRefused: it cannot be written,
    /// or the kernel refuses what the options insist on, for the process to attach to or for all;
    /// the user has been told. `engine` may still be loading, and must live longer.
    static Result<std::unique_ptr<ProfilingRun>> make(
        EventLoop& loop, const Options& options, EngineChoice& engine, pid_t pid_for_name,
        std::int64_t start_deadline_ns = kStartDeadlineNs);
    ~ProfilingRun();
    ProfilingRun(const ProfilingRun&) = delete;
    ProfilingRun& operator=(const ProfilingRun&) = delete;

    /// Runs when sampling has finished and the profile is written.
    void on_finished(std::function<void()> handler) { finished_handler_ = std::move(handler); }

    /// Runs when the first tick of the first agent has been taken.
    void on_first_sample(std::function<void()> handler) {
        first_sample_handler_ = std::move(handler);
    }

    /// Takes in an agent: `pid` is its process as the kernel says, `descriptor` the process itself
    /// if there is one already. It takes the place of one that was in that process before, which
    /// has executed another program since. After stop() it is turned away, and so is one whose
    /// process has ended. `image`: the program that the agent was brought into, where that is
    /// known.
    void add_agent(Channel channel, pid_t pid, UniqueFd descriptor = {},
                   const std::optional<ProgramImage>& image = {});
    /// Tells of an agent that wanted to be taken in and could not be.
    void miss_agent(const Error& error);
    /// Tells why there is nothing to sample.
    void refuse(const std::string& why);
    /// Whether anything was told that could not be sampled.
    [[nodiscard]] bool has_complained() const { return complaints_.count() != 0; }
    /// Begins the end: all agents are told to stop. Once; any number of calls.
    void stop();

    /// A signal that asks for the end has come, here or to the command: why there is no sample, if
    /// there is none. The first one counts.
    void note_signal(int number) {
        ending_signal_ = ending_signal_ != 0 || first_sample_told_ ? ending_signal_ : number;
    }

    /// A profile without samples leaves no file, from here on. Before stop().
    void leave_no_empty_file() { leaves_empty_file_ = false; }
    /// After the end: whether there is a profile with samples of a process.
    [[nodiscard]] bool has_samples() const { return profile_->processes() != 0; }

    /// What sampling needs from here on, until its end.
    [[nodiscard]] NeededRights needed_rights() const;
    /// A user has asked for the end, by a signal. From then on an output that has taken nothing for
    /// two seconds (a pipe that nobody reads, a file server that is gone) is given up when sampling
    /// has ended. With `may_force` the second call ends everything at once, with the profile as far
    /// as it goes. Does not call stop().
    void hurry(bool may_force);

    [[nodiscard]] bool has_finished() const { return finished_; }
    [[nodiscard]] bool is_stopping() const { return stopping_; }
    /// Agents that said they are there, whatever became of them.
    [[nodiscard]] std::uint64_t agents_seen() const { return agents_seen_; }
    /// Agents that are still sampling or about to.
    [[nodiscard]] std::size_t agents_alive() const { return agents_.size(); }
    /// Runs each time an agent has gone: for attach, whose only one it is.
    void on_agent_gone(std::function<void()> handler) { gone_handler_ = std::move(handler); }

    /// After the end: what is wrong always, the summary if `verbose` or a terminal reads it.
    Outcome write_summary();
    /// Behind that: an output that is the command's, too, gets the profile now
    /// (output::OutputFile::deliver()). Waits. False if it does not take it; the user has been
    /// told.
    bool deliver();

  private:
    struct Agent;

    ProfilingRun(EventLoop& loop, const Options& options, EngineChoice& engine);
    void drain_all();
    unsigned drain_rings(std::int64_t now_ns);
    void look_at_output(std::int64_t now_ns);
    void keep_bounds();
    void end_all_at_once();
    void end_agent(Agent& agent, std::string complaint);
    void watch_output();
    void give_up_output();
    void complete();
    void look_at_children(bool at_all_threads, std::int64_t until_ns);
    void stop_deserted();
    tl::expected<control::Armed, std::string> arm(const Agent& agent, const control::Arm& request);
    void after_event(Agent& agent);
    void begin_exposure();
    void end_exposure();
    void release_channel(Agent& agent);
    void detach(Agent& agent);
    void remove(Agent& agent);
    void settle_ended();
    void look_at_processes(std::int64_t now_ns);
    void look_for_lost_samplers(std::int64_t now_ns);
    void replace_agent(pid_t pid);
    void finish();
    [[nodiscard]] RunSummary summary() const;

    EventLoop& loop_;
    Options options_;
    SessionSettings settings_;
    std::unique_ptr<Profile> profile_;
    EngineChoice& engine_;
    std::vector<std::unique_ptr<Agent>> agents_;
    LostSamplers lost_;
    std::optional<Timer> drain_timer_;
    std::optional<Timer> exposure_timer_;
    std::optional<Timer> deadline_timer_;
    std::optional<Timer> output_timer_;
    EventLoop::Source output_source_ = 0;
    std::function<void()> finished_handler_;
    std::function<void()> gone_handler_;
    std::function<void()> first_sample_handler_;
    Status profile_status_;
    std::int64_t start_deadline_ns_ = kStartDeadlineNs;
    std::uint64_t agents_seen_ = 0;
    Complaints complaints_;
    DrainPace pace_;
    std::int64_t next_flush_ns_ = kLongAgoNs;
    std::int64_t next_children_ns_ = kLongAgoNs;
    bool first_sample_told_ = false;
    int ending_signal_ = 0;  // that came before the first sample
    std::size_t next_to_drain_ = 0;
    CutFigures cut_;
    ForkedChildren children_;
    OutputWatch output_watch_;
    std::int64_t ending_cpu_ns_ = 0;  // of this program, since stop(), for rings
    bool leaves_empty_file_ = true;
    bool is_waiting_told_ = false;
    bool is_finishing_ = false;
    bool exposure_begun_ = false;
    bool exposure_over_ = false;
    bool stopping_ = false;
    bool finished_ = false;
};

}  // namespace echion::cli
