#include "cli/session.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/clock.h"
#include "cli/target_shortage.h"
#include "console/message.h"
#include "cpython/line_table.h"
#include "engine/bpf/kernel_clock.h"
#include "platform/process_info.h"
#include "stream/record.h"

namespace echion::cli {
namespace {

std::uint32_t resolve_line(const model::CodeView& code, std::int32_t offset) {
    // The kinds of code are those of line tables, in the same order.
    static_assert(static_cast<int>(model::CodeKind::kLnotab) ==
                  static_cast<int>(cpython::LineTableKind::kLnotab));
    static_assert(static_cast<int>(model::CodeKind::kLinetable) ==
                  static_cast<int>(cpython::LineTableKind::kLinetable));
    static_assert(static_cast<int>(model::CodeKind::kLocations) ==
                  static_cast<int>(cpython::LineTableKind::kLocations));
    const auto position =
        cpython::parse_line_table(static_cast<cpython::LineTableKind>(code.kind), code.line_table,
                                  static_cast<std::int32_t>(code.first_line), offset);
    // An instruction without a line stands for the function as a whole.
    return position.line > 0 ? static_cast<std::uint32_t>(position.line) : code.first_line;
}

template <std::size_t N>
std::string text_of(const char (&field)[N]) {
    return make_printable({field, strnlen(field, N)});
}

/// Of one agent in one go. An honest one sends four in all.
constexpr int kMaxMessages = 8;

/// Of text, from one ring in one go.
constexpr std::uint64_t kDrainOutputBytes = std::uint64_t{16} << 20;

/// Of the end of one session in one go, and in all, in this program's CPU time: a ring full of few
/// bytes that make long lines could go on for an hour. One of true samples takes a second.
constexpr std::int64_t kEmptyingNs = 20'000'000;
constexpr std::int64_t kMaxEmptyingCpuNs = 4 * kNanosPerSecond;

/// Threads of a process that are looked at for one; a look takes some 20 us.
constexpr unsigned kMaxThreadLooks = 4096;

std::uint64_t longest_gap_ns(std::uint64_t interval_ns) {
    return static_cast<std::uint64_t>(
        stream::longest_gap_ns(static_cast<std::int64_t>(interval_ns)));
}

constexpr char kNotStarted[] =
    "Python has not started in it, or has ended: there is nothing to sample";
constexpr char kBrokenStream[] = "the agent broke the stream's rules";

/// The scratch memory of drain(), shared by all sessions: a batch is decoded at once.
std::span<std::byte> batch_buffer() {
    static std::vector<std::byte> buffer(stream::kMaxBatchBytes);
    return buffer;
}

}  // namespace

Session::Session(Profile& profile, const SessionSettings& settings, Channel channel, pid_t pid,
                 FdSource extra_fds, ArmHandler arm, CpuSource counted_cpu)
    : profile_(profile),
      settings_(settings),
      channel_(std::move(channel)),
      pid_(pid),
      extra_fds_(std::move(extra_fds)),
      arm_(std::move(arm)),
      counted_cpu_(std::move(counted_cpu)) {}

void Session::on_readable() {
    for (int taken = 0; taken < kMaxMessages && channel_.is_open(); ++taken) {
        auto packet = channel_.receive();
        if (!packet) {
            end_after(packet.error());
            return;
        }
        if (!packet->has_value()) {
            return;
        }
        handle(**packet);
    }
}

void Session::end_after(const Error& error) {
    // A hang-up is how a process ends, also one that ends at once; anything else is a fault.
    const bool hung_up = error.system_errno == ECONNRESET || error.system_errno == EPIPE;
    // A sampler with a descriptor table of its own closes its end when it ends, and not before.
    if (hung_up && is_end_told_ && state_ == State::kSampling && shares_table_ && has_sampler()) {
        is_cut_off_ = true;  // the program has closed all descriptors that it found
        channel_.hang_up();
        return;
    }
    end_with(hung_up ? "" : describe(error));
}

// An exec ends all threads but one, which takes the process's number. That a ring is mapped would
// tell as well, but reading the maps waits for a lock that the target can hold for as long as it
// likes.
bool Session::has_sampler() const {
    bool is_found = false;
    unsigned looks = 0;
    const auto look = [&](pid_t tid) {
        const auto info = read_thread_info(pid_, tid);
        is_found = info && info->own_pid == static_cast<pid_t>(sampler_tid_) &&
                   info->state != 'Z' && info->state != 'X';
        return !is_found && ++looks < kMaxThreadLooks;
    };
    // Most see the same numbers.
    if (look(static_cast<pid_t>(sampler_tid_))) {
        (void)for_each_thread(pid_, look);
    }
    return is_found;
}

bool Session::is_first(control::MessageType type) {
    const auto number = static_cast<std::uint32_t>(type);
    const std::uint32_t bit = number < 32 ? 1U << number : 0U;
    const bool is_known = bit != 0 && (seen_types_ & bit) == 0;
    seen_types_ |= bit;
    return is_known;
}

void Session::handle(const Packet& packet) {
    const auto type = packet.type();
    // The Hello may have been sent before the kernel was asked to tell.
    const bool is_anonymous = packet.sender.pid == 0 && state_ == State::kWaiting;
    if (packet.sender.pid != pid_ && !is_anonymous) {
        end_with("another process uses its channel");
    } else if (!type || !is_first(*type)) {
        end_with("the agent sent a message that does not belong there");
    } else if (type == control::MessageType::kHello && state_ == State::kWaiting) {
        handle_hello(packet);
    } else if (type == control::MessageType::kArm && arm_ &&
               (state_ == State::kConfigured || state_ == State::kStopping)) {
        handle_arm(packet);
    } else if (type == control::MessageType::kStarted && state_ == State::kConfigured &&
               packet.as<control::Started>(*type)) {
        state_ = State::kSampling;
        was_sampled_ = true;
        shares_table_ = packet.as<control::Started>(*type)->shares_table != 0;
        sampler_tid_ = packet.as<control::Started>(*type)->sampler_tid;
        raised_by_ = packet.as<control::Started>(*type)->raised_by;
    } else if (type == control::MessageType::kStarted && state_ == State::kStopping) {
        was_sampled_ = true;  // crossed our Stop
    } else if (type == control::MessageType::kFailed) {
        handle_failed(packet);
    } else if (type == control::MessageType::kStopped && state_ == State::kStopping) {
        end_with(was_sampled_ ? "" : std::move(why_late_));
    } else {
        end_with("the agent sent a message that does not belong there");
    }
}

void Session::handle_hello(const Packet& packet) {
    const auto hello = packet.as<control::Hello>(control::MessageType::kHello);
    if (!hello) {
        end_with("the agent's first message is damaged");
        return;
    }
    if (const std::string version = text_of(hello->agent_version); version != ECHION_VERSION) {
        end_with(
            fmt::format("the agent is of version {}, this program of {}", version, ECHION_VERSION));
        return;
    }
    if (hello->pointer_bytes != sizeof(void*)) {
        end_with("the process is of another word size: use the build of Echion for it");
        return;
    }
    // What comes from here on was sent after the process was pinned, so that its sender's number
    // is that process's.
    if (channel_.has_waiting()) {
        end_with("the agent sent a message that does not belong there");
        return;
    }
    std::vector<engine::ExtraFd> extra_fds;
    if (extra_fds_) {
        auto fds = extra_fds_();
        if (!fds) {
            end_with(std::move(fds.error()));
            return;
        }
        extra_fds = std::move(*fds);
    }
    if (auto status = configure(extra_fds); !status) {
        end_after(status.error());
    }
}

Status Session::configure(const std::vector<engine::ExtraFd>& extra_fds) {
    auto ring_fd = stream::make_ring(settings_.ring_bytes);
    if (!ring_fd) {
        return tl::unexpected(ring_fd.error());
    }
    auto mapping = stream::RingMapping::open(ring_fd->get());
    if (!mapping) {
        return tl::unexpected(mapping.error());
    }
    ring_.emplace(std::move(*mapping));
    configured_ns_ = monotonic_ns();
    shares_clock_ = engine::shares_clock(pid_);
    tick_interval_ns_ = settings_.interval_ns;
    sink_ = profile_.add_process(pid_);
    builder_ =
        std::make_unique<model::ProfileBuilder>(*sink_, profile_.settings().metric, resolve_line);
    ledger_ = std::make_unique<model::CpuLedger>(*builder_);
    stream::DecoderLimits limits;
    limits.stack_frames = settings_.max_frames;
    decoder_ = std::make_unique<stream::Decoder>(*ledger_, limits);

    control::Configure message{};
    message.header = make_header<control::Configure>(control::MessageType::kConfigure);
    message.interval_ns = settings_.interval_ns;
    message.mode = settings_.mode;
    message.flags = settings_.flags;
    message.max_frames = settings_.max_frames;
    message.tasks = settings_.tasks;
    std::vector<int> fds = {ring_fd->get()};
    message.fd_kinds[0] = control::FdKind::kRing;
    for (const engine::ExtraFd& extra : extra_fds) {
        if (fds.size() < control::kMaxFds) {
            message.fd_kinds[fds.size()] = extra.kind;
            if (extra.kind == control::FdKind::kBpfState) {
                message.kernel_target = extra.target;
                message.clock_ahead_ns = extra.clock_ahead_ns;
            }
            fds.push_back(extra.fd);
        }
    }
    message.fd_count = static_cast<std::uint32_t>(fds.size());
    if (auto status = channel_.send(&message, sizeof(message), fds); !status) {
        return status;
    }
    state_ = State::kConfigured;
    return {};
}

void Session::handle_arm(const Packet& packet) {
    const auto request = packet.as<control::Arm>(control::MessageType::kArm);
    if (!request) {
        end_with("the agent's request for ticks is damaged");
        return;
    }
    auto answer = arm_(*request);
    if (!answer) {
        ring_.reset();  // no tick has been taken: there is no more in it than the stream's start
        end_with(std::move(answer.error()));
        return;
    }
    is_armed_ = answer->armed != 0;
    tick_interval_ns_ = std::max(tick_interval_ns_, answer->interval_ns);
    if (auto status = channel_.send(&*answer, sizeof(*answer)); !status) {
        end_after(status.error());
    }
}

void Session::handle_failed(const Packet& packet) {
    const auto failed = packet.as<control::Failed>(control::MessageType::kFailed);
    if (!failed) {
        end_with("the agent's message is damaged");
        return;
    }
    // It has obeyed, and has nothing to be blamed for.
    if (state_ == State::kStopping &&
        static_cast<ErrorKind>(failed->error_kind) == ErrorKind::kNotReady) {
        end_with(why_late_.empty() ? "" : kNotStarted);
        return;
    }
    std::string why = text_of(failed->what);
    if (failed->system_errno > 0) {
        why += fmt::format(": {}", strerror(failed->system_errno));
    }
    const bool lacks_memory = static_cast<ErrorKind>(failed->error_kind) == ErrorKind::kNoSpace;
    why += explain_target_errno(pid_, lacks_memory ? ENOMEM : failed->system_errno);
    end_with(std::move(why));
}

/// Decodes what is left of a batch; false when it is not through.
Result<bool> Session::take_rest(FunctionRef<bool()> goes_on) {
    if (rest_.empty()) {
        return true;
    }
    const auto done = decoder_->decode_some(std::span(rest_).subspan(rest_at_), goes_on);
    if (!done) {
        return tl::unexpected(done.error());
    }
    rest_at_ += *done;
    if (rest_at_ < rest_.size()) {
        return false;
    }
    rest_ = std::vector<std::byte>();
    rest_at_ = 0;
    return true;
}

/// Whether the ring was emptied, or as much of it taken as was wanted.
Result<bool> Session::take_batches(std::size_t max_bytes, std::int64_t until_ns) {
    const std::uint64_t most_output = sink_->output_bytes() + kDrainOutputBytes;
    const auto goes_on = [&] {
        return !profile_.is_behind() && sink_->output_bytes() < most_output &&
               monotonic_ns() < until_ns;
    };
    if (!goes_on()) {
        return false;
    }
    if (const auto through = take_rest(goes_on); !through || !*through) {
        return through;
    }
    for (std::size_t taken = 0; taken < max_bytes;) {
        if (!goes_on()) {
            return false;
        }
        const auto size_bytes = ring_->read_batch(batch_buffer());
        if (!size_bytes) {
            return tl::unexpected(size_bytes.error());
        }
        if (*size_bytes == 0) {
            break;
        }
        taken += *size_bytes;
        to_empty_ -= std::min(to_empty_, *size_bytes);
        const auto batch = batch_buffer().first(*size_bytes);
        const auto done = decoder_->decode_some(batch, goes_on);
        if (!done) {
            return tl::unexpected(done.error());
        }
        if (*done < batch.size()) {
            rest_.assign(batch.begin() + static_cast<std::ptrdiff_t>(*done), batch.end());
            return false;
        }
    }
    return true;
}

unsigned Session::drain(std::size_t max_bytes, std::int64_t until_ns) {
    if (!ring_) {
        return 0;
    }
    // Looks, also when nothing is taken: an agent without a channel knows by that that there is
    // somebody.
    const std::size_t readable = ring_->readable_bytes().value_or(0);
    auto percent = static_cast<unsigned>(readable * 100 / ring_->data_bytes());
    if (is_emptying()) {
        go_on_emptying(until_ns);
        return percent;
    }
    const auto through = take_batches(max_bytes, until_ns);
    if (!through) {
        end_with(fmt::format("{} ({})", kBrokenStream, through.error().what));
    } else if (!*through) {
        percent = 100;
    } else if (is_cut_off_ && ring_->producer_has_ended()) {
        end();
    }
    return percent;
}

void Session::checkpoint() {
    if (builder_) {
        builder_->checkpoint();
        sink_->checkpoint();
    }
}

std::size_t Session::memory_bytes() const {
    return decoder_ ? decoder_->memory_bytes() + builder_->memory_bytes() +
                          ledger_->memory_bytes() + sink_->memory_bytes() + rest_.capacity()
                    : 0;
}

void Session::request_stop() {
    if (state_ == State::kWaiting) {
        end();  // nothing has begun; the hang-up tells the agent
        return;
    }
    if (state_ != State::kConfigured && state_ != State::kSampling) {
        return;
    }
    const control::Stop stop{make_header<control::Stop>(control::MessageType::kStop)};
    if (is_cut_off_) {
        ring_->request_stop();
    } else if (!channel_.send(&stop, sizeof(stop))) {
        // It does not read any more. What it has sent still counts, and the hang-up stops it.
        on_readable();
        end();
        return;
    }
    state_ = State::kStopping;
    if (counted_cpu_) {
        used_cpu_ = counted_cpu_(settings_.mode == control::Mode::kWall);
    }
}

void Session::stop_late(std::string why) {
    if (state_ != State::kConfigured) {
        end_with(std::move(why));
        return;
    }
    why_late_ = std::move(why);
    request_stop();
}

void Session::end() {
    if (has_ended() || is_emptying()) {
        return;
    }
    was_stopped_ = state_ == State::kStopping;
    ended_ns_ = monotonic_ns();
    channel_.hang_up();
    if (!ring_) {
        state_ = State::kEnded;
        return;
    }
    state_ = State::kEmptying;
    // A ring full is all that can be there in truth; an agent that goes on writing is not waited
    // for. A stream that has gone wrong goes wrong again at once.
    to_empty_ = ring_->data_bytes();
    if (counted_cpu_ && !was_stopped_) {
        used_cpu_ = counted_cpu_(true);
    }
    go_on_emptying(monotonic_ns() + kEmptyingNs);
}

void Session::go_on_emptying(std::int64_t until_ns) {
    const std::int64_t before_ns = read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    const auto through = take_batches(to_empty_, until_ns);
    emptying_cpu_ns_ += read_clock_ns(CLOCK_THREAD_CPUTIME_ID) - before_ns;
    if (through && !*through && emptying_cpu_ns_ > kMaxEmptyingCpuNs) {
        end_at_once();
        return;
    }
    if (!through && complaint_.empty()) {
        complaint_ = fmt::format("{} ({})", kBrokenStream, through.error().what);
    }
    if (!through || *through) {
        close_books();
    }
}

/// The process ended before the sampler's next look, or threads did, and others have had their
/// slots since.
void Session::settle_cpu() {
    if (settings_.mode == control::Mode::kCpu && decoder_->has_started() && complaint_.empty()) {
        ledger_->settle(used_cpu_, longest_gap_ns(tick_interval_ns_));
    }
}

/// An agent that comes to its end looks once more; one whose process has ended, or that did not get
/// to answer a stop, does not. What the threads lived from its last look on is told here.
void Session::settle_end() {
    if (settings_.mode != control::Mode::kWall || !decoder_->has_started() || ended_ns_ == 0 ||
        !complaint_.empty() || !shares_clock_ || ring_->producer_has_ended()) {
        return;
    }
    const std::uint64_t looked_ns = builder_->now_ns();
    const auto ended_ns = static_cast<std::uint64_t>(ended_ns_);
    if (looked_ns < static_cast<std::uint64_t>(configured_ns_) || looked_ns >= ended_ns) {
        return;  // not an honest agent's
    }
    const std::uint64_t gap_ns = longest_gap_ns(tick_interval_ns_);
    for (const model::CountedCpu& thread : used_cpu_) {
        const auto id = ledger_->find(thread.native_thread_id);
        if (id && thread.ended_ns > looked_ns && thread.ended_ns < ended_ns) {
            builder_->end_after(*id, thread.ended_ns - looked_ns, gap_ns);
        }
    }
    builder_->live_on(ended_ns - looked_ns, gap_ns);
}

void Session::close_books() {
    state_ = State::kEnded;
    settle_cpu();
    settle_end();
    builder_->finish();
    was_sampled_ = was_sampled_ || decoder_->has_started();
    if (was_sampled_) {
        ProcessFigures figures;
        figures.duration_ns = builder_->duration_ns();
        figures.lost_ns = builder_->lost_ns();
        figures.missed_us = builder_->missed_us();
        if (settings_.mode == control::Mode::kWall) {
            for (const model::CountedCpu& thread : used_cpu_) {
                if (ledger_->knows(thread.native_thread_id)) {
                    figures.on_cpu_ns += thread.cpu_ns;
                    figures.runnable_ns += thread.runnable_ns;
                }
            }
        }
        figures.value_us = builder_->value_us();
        figures.overcounted_ns = ledger_->overcounted_ns();
        figures.lines_skipped = builder_->lines_skipped();
        for (std::size_t i = 0; i < figures.counters.size(); ++i) {
            figures.counters[i] = ring_->counter(static_cast<stream::Counter>(i));
        }
        profile_.finish_process(pid_, figures, start_ticks_);
    }
    decoder_.reset();
    ledger_.reset();
    builder_.reset();
    sink_.reset();
    ring_.reset();
    rest_ = std::vector<std::byte>();
}

void Session::end_at_once(std::string complaint) {
    if (has_ended()) {
        return;
    }
    if (!complaint.empty()) {
        complaint_ = std::move(complaint);
    }
    channel_.hang_up();
    if (!ring_) {
        state_ = State::kEnded;
        return;
    }
    undecoded_bytes_ = ring_->readable_bytes().value_or(0) + rest_.size() - rest_at_;
    close_books();
}

void Session::end_with(std::string complaint) {
    if (has_ended() || is_emptying()) {
        return;
    }
    complaint_ = std::move(complaint);
    end();
}

}  // namespace echion::cli
