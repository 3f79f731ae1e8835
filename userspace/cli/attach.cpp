// Attach: the agent is brought into a process that runs already, samples until it is told to stop,
// and leaves it as it was.

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/file_limit.h"
#include "cli/agent_file.h"
#include "cli/agent_process.h"
#include "cli/channel.h"
#include "cli/engine_choice.h"
#include "cli/injecting.h"
#include "cli/modes.h"
#include "cli/profiling_run.h"
#include "cli/target_shortage.h"
#include "console/message.h"
#include "console/refusal.h"
#include "inject/loader.h"
#include "isolation/aside.h"
#include "isolation/kept_rights.h"
#include "isolation/stall_watch.h"
#include "platform/event_loop.h"
#include "platform/program_image.h"
#include "where/target.h"

namespace echion::cli {
namespace {

// An agent is a few hundred kilobytes; with symbols some megabytes.
constexpr std::size_t kMaxAgentBytes = std::size_t{256} << 20;

/// Signals that end sampling; the profile is written and the target goes on. SIGQUIT is not passed
/// on for a report, as a command's is: a target that the agent is leaving just then would die of
/// it.
constexpr int kEndingSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};

/// Reads `into.size()` bytes of a file from `offset` on.
Status read_at(int file, std::size_t offset, std::span<std::byte> into) {
    while (!into.empty()) {
        const ssize_t got = pread(file, into.data(), into.size(), static_cast<off_t>(offset));
        if (got <= 0) {
            return fail(ErrorKind::kSystem, "read the agent", got < 0 ? errno : EIO);
        }
        offset += static_cast<std::size_t>(got);
        into = into.subspan(static_cast<std::size_t>(got));
    }
    return {};
}

/// How much of a library's file its loader needs, without the symbols and the debugger's data: with
/// those the image is 30 times as large, all of which would have to be read here, and which the
/// target would have to pay for as long as it lives. Clears the header's mention of what is left
/// out. Nothing for what is no such file: the target's loader will say what is wrong with it.
std::optional<std::size_t> find_loaded_part(int file, std::size_t file_bytes, ElfW(Ehdr) & header) {
    if (!read_at(file, 0, std::as_writable_bytes(std::span(&header, 1))) ||
        std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
        header.e_phentsize != sizeof(ElfW(Phdr))) {
        return std::nullopt;
    }
    std::vector<ElfW(Phdr)> segments(header.e_phnum);
    if (!read_at(file, header.e_phoff, std::as_writable_bytes(std::span(segments)))) {
        return std::nullopt;
    }
    std::size_t end = header.e_phoff + segments.size() * sizeof(ElfW(Phdr));
    for (const ElfW(Phdr) & segment : segments) {
        if (segment.p_offset > file_bytes || segment.p_filesz > file_bytes - segment.p_offset) {
            return std::nullopt;
        }
        end = std::max<std::size_t>(end, segment.p_offset + segment.p_filesz);
    }
    header.e_shoff = 0;
    header.e_shnum = 0;
    header.e_shstrndx = SHN_UNDEF;
    return end;
}

Result<std::vector<std::byte>> read_agent(const std::string& path) {
    const UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat status {};
    if (!file || fstat(file.get(), &status) != 0) {
        return fail(ErrorKind::kSystem, "read the agent", errno);
    }
    if (status.st_size <= 0 || static_cast<std::size_t>(status.st_size) > kMaxAgentBytes) {
        return fail(ErrorKind::kInvalid, "the agent's file is damaged");
    }
    const auto file_bytes = static_cast<std::size_t>(status.st_size);
    ElfW(Ehdr) header;
    const auto loaded_part = find_loaded_part(file.get(), file_bytes, header);
    std::vector<std::byte> bytes(loaded_part.value_or(file_bytes));
    if (auto read = read_at(file.get(), 0, bytes); !read) {
        return tl::unexpected(read.error());
    }
    if (loaded_part) {
        std::memcpy(bytes.data(), &header, sizeof(header));
    }
    return bytes;
}

/// Name of the memory file, by which a later attach knows this very agent: version and a hash of
/// the bytes (FNV-1a).
std::string name_agent(const std::vector<std::byte>& bytes) {
    std::uint64_t hash = 0xcbf29ce484222325;
    for (const std::byte byte : bytes) {
        hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3;
    }
    return fmt::format("echion-agent-{}-{:016x}", ECHION_VERSION, hash);
}

/// What the errno of a failure in the target is. The dynamic loader says it in words.
int find_errno(const inject::InjectFailure& failure) {
    const auto says = [&](const char* words) {
        return failure.text.find(words) != failure.text.npos;
    };
    if (says("annot allocate memory") || says("failed to map segment")) {
        return ENOMEM;
    }
    return says("Too many open files") ? EMFILE : failure.error.system_errno;
}

/// The limit or filter that is behind a failure, with what to do; empty when none is.
std::string explain_cause(pid_t pid, const inject::InjectFailure& failure) {
    if (failure.error.system_errno == EFBIG) {
        return " (echion's own limit on file sizes: see ulimit -f)";
    }
    const bool is_mapping = std::string_view(failure.error.what) == inject::kMapMemory;
    return failure.is_targets
               ? explain_target_errno(pid, find_errno(failure),
                                      is_mapping ? TargetCall::kMap : TargetCall::kOther)
               : "";
}

/// A Python that is just starting is waited for so long. One that has ended in a process that goes
/// on looks the same.
constexpr std::int64_t kStartPatienceNs = 2 * kNanosPerSecond;
constexpr std::int64_t kStartNapNs = 2'000'000;
// At a process that executes one program after the other.
constexpr int kMostLooks = 3;

/// How long an injection that has been cancelled may take to end.
constexpr std::uint64_t kGraceNs = 3'000'000'000;

class Attach {
  public:
    explicit Attach(const Options& options) : options_(options), pid_(*options.attach_pid) {}

    int run();

  private:
    Status prepare();
    void on_signal(int number);
    Status begin_injection();
    void on_injected();
    [[noreturn]] void on_no_patience();
    [[noreturn]] void give_up(const std::string& why);
    [[nodiscard]] bool look();
    [[nodiscard]] bool look_at_one_program();
    void tell_cost(const inject::Injection& injection) const;
    void on_target_gone();
    void tell_end();
    [[nodiscard]] std::string explain(const std::string& failure) const;

    const Options& options_;
    const pid_t pid_;
    const std::int64_t since_ns_ = monotonic_ns();
    // Its loading takes longer than all the rest, which goes on meanwhile.
    std::optional<EngineChoice> engine_;
    std::vector<std::byte> agent_;
    std::optional<EventLoop> loop_;
    std::optional<Signals> signals_;
    std::unique_ptr<ProfilingRun> run_;
    std::unique_ptr<Injecting> injecting_;
    std::optional<Timer> patience_timer_;
    int signal_ = 0;         // that came before the agent was in
    int ending_signal_ = 0;  // that ended sampling, or kept it from beginning
    // As it was at first, so that it has a name also behind its end.
    const std::string who_ = describe_process(pid_);
    const bool was_alive_ = !is_ending(pid_);
    std::optional<ProgramImage> seen_;  // the program that look() was about
    std::optional<AgentProcess> process_;
    bool is_good_ = false;
};

Status Attach::prepare() {
    auto loop = EventLoop::make();
    if (!loop) {
        return tl::unexpected(loop.error());
    }
    loop_.emplace(std::move(*loop));
    const sigset_t set = with_failed_writes(kEndingSignals);
    auto signals = Signals::make(*loop_, set, [this](const ReceivedSignal& signal) {
        if (signal.number != SIGPIPE && signal.number != SIGXFSZ) {
            on_signal(signal.number);
        }
    });
    if (!signals) {
        return tl::unexpected(signals.error());
    }
    signals_.emplace(std::move(*signals));
    auto timer = Timer::make(*loop_, [this] { on_no_patience(); });
    if (!timer) {
        return tl::unexpected(timer.error());
    }
    patience_timer_.emplace(std::move(*timer));
    return {};
}

void Attach::on_signal(int number) {
    if (!injecting_) {
        if (!run_->is_stopping()) {
            ending_signal_ = number;
            run_->note_signal(number);
            run_->leave_no_empty_file();
        }
        run_->stop();
        run_->hurry(true);
    } else if (std::exchange(signal_, number) == 0) {
        injecting_->cancel();
        patience_timer_->arm(kGraceNs);
    } else {
        on_no_patience();
    }
}

void Attach::on_no_patience() {
    give_up(fmt::format("interrupted while looking at {}; it goes on", describe_process(pid_)));
}

/// A limit on open files that is never felt.
constexpr rlim_t kManyFiles = 512;

/// Whether an attachment will find the descriptors that it needs, of which it opens some when the
/// target is stopped.
Status check_descriptors() {
    constexpr int kNeeded = 16;
    std::vector<UniqueFd> taken;
    for (int i = 0; i < kNeeded; ++i) {
        taken.emplace_back(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0));
        if (!taken.back()) {
            return fail(ErrorKind::kSystem, "open what an attachment needs", errno);
        }
    }
    return {};
}

Status Attach::begin_injection() {
    if (rlimit limit{}; getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < kManyFiles) {
        engine_->settle();  // it is not to open its own when they have been counted
    }
    if (auto status = check_descriptors(); !status) {
        return status;
    }
    inject::InjectLimits limits;
    limits.allow_unknown_seccomp = options_.allow_seccomp;
    limits.seen = seen_;
    auto started = Injecting::start(*loop_, pid_, limits, agent_, name_agent(agent_),
                                    [this] { on_injected(); });
    if (!started) {
        return tl::unexpected(started.error());
    }
    injecting_ = std::move(*started);
    return {};
}

/// Ends the program though the injecting thread does not: the kernel lets go of what that holds.
void Attach::give_up(const std::string& why) {
    print_message(why);
    run_->on_finished({});
    run_->stop();  // leaves no file
    leave_at_once(signal_ != 0 ? kExitSignalBase + signal_ : kExitFailure);
}

void Attach::on_injected() {
    patience_timer_->disarm();
    if (injecting_->is_stalled()) {
        give_up(explain_stall(pid_));
    }
    auto injection = injecting_->take_result();
    injecting_.reset();
    auto channel = injection ? Channel::adopt(ForeignFd(std::move(injection->channel)))
                             : Result<Channel>(tl::unexpected(injection.error().error));
    if (!injection) {
        const inject::InjectFailure& failure = injection.error();
        say("{}", explain(make_printable(failure.text) + explain_cause(pid_, failure)));
    } else if (!channel) {
        say("process {} handed out something else than its control socket", pid_);
    }
    if (channel && signal_ != 0) {
        say("{} came before the first sample of {}: there is no profile; it goes on",
            name_signal(signal_), make_printable(who_));
    }
    if (!channel || signal_ != 0) {
        run_->on_finished({});
        run_->stop();  // leaves no file
        loop_->stop();
        return;
    }
    if (options_.verbose) {
        tell_cost(*injection);
    }
    engine_->settle();  // nothing that it does is left to another thread
    keep_rights_only(run_->needed_rights(), options_.verbose);
    UniqueFd descriptor(fcntl(injection->process.get(), F_DUPFD_CLOEXEC, 0));
    auto process = AgentProcess::pin(pid_, std::move(injection->process), injection->image);
    if (!process) {
        run_->refuse(
            explain(fmt::format("cannot attach to {}: {}", who_, describe(process.error()))));
        run_->stop();
        return;
    }
    process_.emplace(std::move(*process));
    run_->add_agent(std::move(*channel), pid_, std::move(descriptor), injection->image);
}

/// What has failed, or, for a process that is there no more, just that: it explains all else.
std::string Attach::explain(const std::string& failure) const {
    return was_alive_ && is_ending(pid_) ? make_printable(who_) + " ended while attaching"
                                         : failure;
}

/// Whether the process can be looked at; else the user has been told why not.
bool Attach::look() {
    const auto look = [this](StallGuard& guard) {
        const std::int64_t deadline_ns = monotonic_ns() + kStartPatienceNs;
        for (;;) {
            const StallGuard::Section section(
                &guard, 2 * (kLocateLimits.time_ns + kSymbolFileLimits.time_ns +
                             kTargetCodeLimits.time_ns));
            const auto target = where::Target::open(pid_, &guard);
            if (target && (*target)->is_ready()) {
                inject::read_ahead(pid_, &guard);
                return 0;
            }
            if (!target || monotonic_ns() >= deadline_ns) {
                const Error not_ready{ErrorKind::kNotReady, 0, "Python has not started"};
                say("{}", explain(make_printable(target ? (*target)->explain(not_ready)
                                                        : target.error())));
                return kExitFailure;
            }
            sleep_ns(kStartNapNs);
        }
    };
    return run_aside(pid_, look, [this] {
               if (!engine_) {
                   engine_.emplace(options_);
               }
           }) == 0;
}

/// The same, of a program that is there before and after it: a process that has only just been
/// started executes its program meanwhile.
bool Attach::look_at_one_program() {
    for (int looks = 0; looks < kMostLooks; ++looks) {
        const auto before = look_at_program(pid_);
        if (!look()) {
            return false;
        }
        const auto after = look_at_program(pid_);
        if (before && after && *before == *after) {
            seen_ = *after;
            return true;
        }
        if (!before || !after) {
            return true;  // what is wrong is told by the one who needs it
        }
    }
    say("{} executed another program while attaching; if it is the right one, try again",
        make_printable(who_));
    return false;
}

void Attach::tell_cost(const inject::Injection& injection) const {
    const inject::InjectCost& cost = injection.cost;
    say("process {}: thread {} was stopped for {:.3f} ms ({}); {} in {:.3f} ms", pid_,
        cost.borrowed_tid, static_cast<double>(cost.pause_ns) / 1e6,
        make_printable(cost.borrowed_doing),
        injection.reused ? "the agent was there already, attached" : "attached",
        static_cast<double>(cost.total_ns) / 1e6);
    if (cost.probes != 0) {
        say("process {}: {} stops before that found no safe point, the longest {:.3f} ms", pid_,
            cost.probes, static_cast<double>(cost.max_probe_ns) / 1e6);
    }
}

/// How long a process whose channel has hung up may take to end before it is taken for living on.
constexpr int kLastMomentsMs = 500;

void Attach::on_target_gone() {
    if (run_->agents_alive() != 0 || run_->is_stopping()) {
        return;
    }
    if (!run_->has_complained()) {
        tell_end();
    }
    run_->stop();
}

/// Tells why the agent has gone, which said nothing of it.
void Attach::tell_end() {
    // A process closes its channel some moments before it is gone, or is another program.
    process_->wait_for_change(kLastMomentsMs);
    const bool has_executed = process_->has_executed();
    const bool has_ended = process_->has_ended();
    if (!run_->has_samples()) {
        const std::string who = make_printable(who_);
        run_->refuse(has_ended ? fmt::format("{} ended while attaching", who)
                     : has_executed
                         ? fmt::format("{} executed another program while attaching; if it is "
                                       "the right one, try again",
                                       who)
                         : fmt::format("the agent in {} ended before its first sample", who));
        return;
    }
    say("{}; what was sampled until then is in the profile",
        has_ended ? fmt::format("process {} has ended", pid_)
        : has_executed
            ? fmt::format("process {} has executed another program, which is not sampled", pid_)
            : fmt::format("the agent in process {} has ended, and it goes on", pid_));
}

int Attach::run() {
    // Everything that can be refused is refused before the target is touched.
    if (!look_at_one_program()) {
        return kExitFailure;
    }
    const std::string path = find_agent();
    if (path.empty()) {
        say("{}", tell_missing_agent());
        return kExitFailure;
    }
    auto agent = read_agent(path);
    if (!agent) {
        say("{}: {}", path, describe(agent.error()));
        return kExitFailure;
    }
    agent_ = std::move(*agent);
    if (auto status = prepare(); !status) {
        say("cannot start: {}", describe(status.error()));
        return kExitFailure;
    }
    auto run = ProfilingRun::make(*loop_, options_, *engine_, pid_);
    if (!run) {
        if (run.error().kind != ErrorKind::kRefused) {
            say("cannot start: {}", describe(run.error()));
        }
        return kExitFailure;
    }
    run_ = std::move(*run);
    if (options_.verbose) {
        run_->on_first_sample([this] {
            say("process {}: first sample after {:.3f} ms", pid_,
                static_cast<double>(monotonic_ns() - since_ns_) / 1e6);
        });
    }
    run_->on_agent_gone([this] { on_target_gone(); });
    run_->on_finished([this] {
        is_good_ = run_->write_summary() == Outcome::kGood;
        loop_->stop();
    });
    if (auto status = begin_injection(); !status) {
        say("cannot start: {}", describe(status.error()));
        run_->on_finished({});
        run_->stop();  // leaves no file
        return kExitFailure;
    }
    if (auto status = loop_->run(); !status) {
        say("stopped early: {}", describe(status.error()));
        return kExitFailure;
    }
    if (signal_ != 0) {
        return kExitSignalBase + signal_;
    }
    if (ending_signal_ != 0 && is_good_ && !run_->has_samples()) {
        return kExitSignalBase + ending_signal_;
    }
    return is_good_ ? 0 : kExitFailure;
}

}  // namespace

int run_attach(const Options& options) {
    // The kernel tells the tracing thread of stops by this signal, which no other thread is to
    // take.
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGCHLD);
    // A message that nobody reads is no reason to end.
    sigaddset(&signals, SIGPIPE);
    sigaddset(&signals, SIGXFSZ);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    raise_file_limit();
    return Attach(options).run();
}

}  // namespace echion::cli
