#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "base/error.h"
#include "base/function_ref.h"
#include "base/unique_fd.h"
#include "cli/channel.h"
#include "cli/profile.h"
#include "control/control.h"
#include "engine/host_engine.h"
#include "model/cpu_ledger.h"
#include "model/profile_builder.h"
#include "stream/decoder.h"
#include "stream/ring.h"

namespace echion::cli {

/// What every agent of a run is told.
struct SessionSettings {
    std::uint64_t interval_ns = 0;
    control::Mode mode = control::Mode::kWall;
    std::uint32_t flags = 0;  ///< Set of control::ConfigureFlag.
    std::uint32_t max_frames = 0;
    control::TaskMode tasks = control::TaskMode::kAll;
    std::size_t ring_bytes = stream::kDefaultRingBytes;
};

/// One agent: its control channel, its ring, and the part of the profile that comes from it. The
/// agent is not trusted: what it sends is checked, a broken rule ends the session.
///
///     waiting ─Hello─► configured ─Started─► sampling ─Stop─► stopping ─► emptying ─► ended
///
/// A hang-up, Failed or a broken rule leads from each of them to emptying.
///
/// What the ring holds is taken out by drain(), at any time. A session that comes to its end is
/// emptying, without a channel, for as long as the ring holds something that was there then;
/// drain() goes on with that.
class Session {
  public:
    enum class State { kWaiting, kConfigured, kSampling, kStopping, kEmptying, kEnded };

    /// Descriptors that this agent is to get; asked when it says Hello. An error is a complaint
    /// that ends the session.
    using FdSource = std::function<tl::expected<std::vector<engine::ExtraFd>, std::string>()>;

    /// Asked, once at most, when this agent is ready for ticks from the kernel; errors likewise.
    using ArmHandler =
        std::function<tl::expected<control::Armed, std::string>(const control::Arm&)>;

    /// Asked for what the kernel counted of its threads: of all, when the agent's process has
    /// ended; of those that have ended, when the agent is told to stop, and counts the others
    /// itself.
    using CpuSource = std::function<std::vector<model::CountedCpu>(bool with_living)>;

    /// `pid` is the agent's process in this program's namespace, as the kernel says, and held by
    /// the caller (AgentProcess): all but the Hello must come from it.
    Session(Profile& profile, const SessionSettings& settings, Channel channel, pid_t pid,
            FdSource extra_fds = {}, ArmHandler arm = {}, CpuSource counted_cpu = {});

    /// The control channel, for the event loop; on_readable() when it is. The number stays this
    /// session's until release_channel().
    [[nodiscard]] int fd() const { return channel_.fd(); }
    /// Closes the channel, once no event loop watches it any more.
    void release_channel() { channel_.close(); }
    /// Takes a bounded number of messages: an agent that floods the channel keeps nobody waiting.
    void on_readable();
    /// Decodes what is in the ring, at most `max_bytes` of it and until CLOCK_MONOTONIC's
    /// `until_ns`, so that a fast writer, or one whose few bytes make much work, cannot keep the
    /// program from its other work. Nothing while the profile's output is behind. Returns how full
    /// the ring was, in percent; 100 when it was left for want of time.
    unsigned drain(std::size_t max_bytes, std::int64_t until_ns);
    /// Says that end() will be called when the process has ended, whatever its channel does. An
    /// agent that only lost its channel, as the program closed it, is then sampled on.
    void expect_end() { is_end_told_ = true; }
    /// What tells its process from others with its number (AgentProcess::start_ticks()).
    void set_start_ticks(std::uint64_t ticks) { start_ticks_ = ticks; }
    /// Whether it goes on without a channel.
    [[nodiscard]] bool is_cut_off() const { return is_cut_off_ && !has_ended() && !is_emptying(); }
    /// Has what was decoded so far put into the profile (model::ProfileBuilder::checkpoint()).
    /// About once a second.
    void checkpoint();
    /// Asks the agent to stop; the session ends when it says that it has.
    void request_stop();
    /// The same of one that is late with its first sample. What the agent answers tells why; `why`
    /// is for when it says nothing of that, or (at the second call) does not answer.
    void stop_late(std::string why);
    /// Ends it: hangs up and takes what is in the ring; what is not taken in a moment is
    /// left to drain().
    void end();
    /// The same, with a reason for the user.
    void end_with(std::string complaint);
    /// Ends it at once: what is in the ring is left (undecoded_bytes()).
    void end_at_once(std::string complaint = {});

    [[nodiscard]] State state() const { return state_; }
    [[nodiscard]] bool has_ended() const { return state_ == State::kEnded; }
    [[nodiscard]] bool is_emptying() const { return state_ == State::kEmptying; }
    /// What it holds, about, and what it has written.
    [[nodiscard]] std::size_t memory_bytes() const;
    [[nodiscard]] std::uint64_t output_bytes() const { return sink_ ? sink_->output_bytes() : 0; }
    /// What was left in the ring when it ended.
    [[nodiscard]] std::uint64_t undecoded_bytes() const { return undecoded_bytes_; }
    /// Whether a first tick has been taken.
    [[nodiscard]] bool was_sampled() const { return was_sampled_; }
    /// Whether its sampler uses the program's descriptor table.
    [[nodiscard]] bool shares_table() const { return shares_table_; }
    /// By how much its sampler's nice value is lower than the program's, or control::kRealtime, as
    /// it says.
    [[nodiscard]] std::int32_t raised_by() const { return raised_by_; }
    /// Whether its ticks come from the kernel.
    [[nodiscard]] bool is_armed() const { return is_armed_; }
    [[nodiscard]] pid_t pid() const { return pid_; }
    /// Why it ended, if it was not by rights: one line without the program's name in front.
    [[nodiscard]] const std::string& complaint() const { return complaint_; }

  private:
    void handle(const Packet& packet);
    void handle_hello(const Packet& packet);
    void handle_arm(const Packet& packet);
    void handle_failed(const Packet& packet);
    Status configure(const std::vector<engine::ExtraFd>& extra_fds);
    Result<bool> take_batches(std::size_t max_bytes, std::int64_t until_ns);
    Result<bool> take_rest(FunctionRef<bool()> goes_on);
    void go_on_emptying(std::int64_t until_ns);
    void settle_cpu();
    void settle_end();
    void close_books();
    [[nodiscard]] bool is_first(control::MessageType type);
    /// Ends after a failure of the channel: quietly if the process has hung up.
    void end_after(const Error& error);
    /// Whether the sampler's thread is still there. Its end of the channel may go with the thread
    /// or without it.
    [[nodiscard]] bool has_sampler() const;

    Profile& profile_;
    SessionSettings settings_;
    Channel channel_;
    pid_t pid_;
    std::uint64_t start_ticks_ = 0;
    FdSource extra_fds_;
    ArmHandler arm_;
    CpuSource counted_cpu_;
    std::vector<model::CountedCpu> used_cpu_;  // when it was told to stop, or had ended
    State state_ = State::kWaiting;
    std::uint32_t seen_types_ = 0;  // a bit for each type of message that has come
    bool was_sampled_ = false;
    bool shares_table_ = false;
    bool was_stopped_ = false;
    bool is_end_told_ = false;
    bool is_cut_off_ = false;
    std::uint32_t sampler_tid_ = 0;  // as the process sees it
    std::int32_t raised_by_ = 0;
    bool is_armed_ = false;
    std::uint64_t tick_interval_ns_ = 0;
    // CLOCK_MONOTONIC, of when it was configured and of its end; 0: not yet.
    std::int64_t configured_ns_ = 0;
    std::int64_t ended_ns_ = 0;
    bool shares_clock_ = false;  // the agent reads this program's clock
    std::string complaint_;
    std::string why_late_;              // of stop_late()
    std::size_t to_empty_ = 0;          // bytes of the ring that still count, when emptying
    std::int64_t emptying_cpu_ns_ = 0;  // of this program, for that
    std::uint64_t undecoded_bytes_ = 0;
    std::vector<std::byte> rest_;  // of a batch, from rest_at_ on
    std::size_t rest_at_ = 0;

    std::optional<stream::RingConsumer> ring_;
    std::unique_ptr<model::StackSink> sink_;
    std::unique_ptr<model::ProfileBuilder> builder_;
    std::unique_ptr<model::CpuLedger> ledger_;
    std::unique_ptr<stream::Decoder> decoder_;
};

}  // namespace echion::cli
