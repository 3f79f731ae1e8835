// Launch: the command runs as a child with the agent preloaded. Every Python process among its
// descendants connects to the rendezvous socket, which they all inherit, and gets a session.

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/file_limit.h"
#include "cli/agent_file.h"
#include "cli/channel.h"
#include "cli/command.h"
#include "cli/engine_choice.h"
#include "cli/modes.h"
#include "cli/profiling_run.h"
#include "cli/program_facts.h"
#include "console/message.h"
#include "control/control.h"
#include "isolation/kept_rights.h"
#include "platform/event_loop.h"
#include "platform/own_modules.h"

namespace echion::cli {
namespace {

/// Signals that are passed on to the command; echion itself ends when the command does.
constexpr int kPassedSignals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};

/// In one go, then others have their turn.
constexpr int kMaxConnects = 32;

struct Rendezvous {
    Channel ours;
    UniqueFd theirs;
};

/// The socket to which agents connect. Its other end gets a high number, where it is in nobody's
/// way: shells and daemons hand out and close the low ones.
Result<Rendezvous> make_rendezvous() {
    auto sockets = make_message_sockets();
    if (!sockets) {
        return tl::unexpected(sockets.error());
    }
    UniqueFd theirs = std::move(sockets->other);
    Channel channel{ForeignFd(std::move(sockets->one))};
    if (auto status = channel.identify_senders(true); !status) {
        return tl::unexpected(status.error());
    }
    for (const int lowest : {900, 200, 50, 10}) {  // the limit may be low
        if (const int moved = fcntl(theirs.get(), F_DUPFD_CLOEXEC, lowest); moved >= 0) {
            theirs.reset(moved);
            break;
        }
    }
    return Rendezvous{std::move(channel), std::move(theirs)};
}

std::vector<std::string> make_environment(const std::string& agent, int rendezvous_fd) {
    struct stat info {};
    fstat(rendezvous_fd, &info);
    std::string preload = fmt::format("{}={}", kPreloadVariable, agent);
    std::vector<std::string> environment;
    for (char** variable = environ; *variable != nullptr; ++variable) {
        const std::string_view text(*variable);
        const std::string_view name = text.substr(0, text.find('='));
        if (name == kPreloadVariable) {
            const std::string_view value = text.substr(std::min(name.size() + 1, text.size()));
            if (!value.empty()) {
                preload += fmt::format(":{}", value);
            }
        } else if (name != control::kRendezvousVariable) {
            environment.emplace_back(text);
        }
    }
    environment.push_back(preload);
    environment.push_back(
        fmt::format("{}={}:{}", control::kRendezvousVariable, rendezvous_fd, info.st_ino));
    return environment;
}

/// The command could not be executed: says why, and returns the status that a shell would.
int report_not_executed(const std::string& name, int error) {
    const bool not_found = error == ENOENT;
    if (not_found && access(name.c_str(), F_OK) == 0 && name.find('/') != name.npos) {
        say("cannot run {}: the interpreter or loader that it asks for is not there", quote(name));
    } else if (not_found) {
        say("cannot run {}: command not found", quote(name));
    } else {
        say("cannot run {}: {}", quote(name),
            describe({ErrorKind::kSystem, error, "not executable"}));
    }
    return not_found ? kExitNotFound : kExitCannotExecute;
}

class Launch {
  public:
    explicit Launch(const Options& options) : options_(options) {}

    int run();

  private:
    Status prepare(const std::string& agent);
    void on_signal(const ReceivedSignal& signal);
    bool is_known_to_command(const ReceivedSignal& signal);
    void on_connect();
    void on_command_end();
    void on_profile_written();
    void close_rendezvous();
    bool deliver();
    int finish();
    int run_beside_command(const std::string& agent);
    int wait_for_command();

    const Options& options_;
    std::optional<EventLoop> loop_;
    std::optional<Signals> signals_;
    Rendezvous rendezvous_;
    EventLoop::Source rendezvous_source_ = 0;
    std::optional<Command> command_;
    std::optional<EngineChoice> engine_;
    std::unique_ptr<ProfilingRun> run_;
    std::optional<int> command_status_;
    int last_signal_ = 0;  // of those that may ask for the end
    const std::int64_t since_ns_ = monotonic_ns();
    bool is_profile_written_ = true;
};

Status Launch::prepare(const std::string& agent) {
    auto loop = EventLoop::make();
    if (!loop) {
        return tl::unexpected(loop.error());
    }
    loop_.emplace(std::move(*loop));

    sigset_t set = with_failed_writes(kPassedSignals);
    sigaddset(&set, SIGCHLD);
    auto signals = Signals::make(*loop_, set, [this](const auto& info) { on_signal(info); });
    if (!signals) {
        return tl::unexpected(signals.error());
    }
    signals_.emplace(std::move(*signals));

    auto rendezvous = make_rendezvous();
    if (!rendezvous) {
        return tl::unexpected(rendezvous.error());
    }
    rendezvous_ = std::move(*rendezvous);
    auto source = loop_->add(rendezvous_.ours.fd(), [this] { on_connect(); });
    if (!source) {
        return tl::unexpected(source.error());
    }
    rendezvous_source_ = *source;

    auto command =
        Command::fork(options_.command, make_environment(agent, rendezvous_.theirs.get()),
                      rendezvous_.theirs.get(), signals_->original_mask());
    if (!command) {
        return tl::unexpected(command.error());
    }
    command_.emplace(std::move(*command));
    rendezvous_.theirs.reset();
    return {};
}

int Launch::run() {
    const std::string agent = find_agent();
    if (agent.empty()) {
        say("{}", tell_missing_agent());
        return kExitFailure;
    }
    if (agent.find_first_of(" :") != agent.npos) {
        // The dynamic loader splits LD_PRELOAD there and knows no quoting.
        say("{} cannot be preloaded: its path contains a space or a colon", agent);
        return kExitFailure;
    }
    if (auto status = prepare(agent); !status) {
        say("cannot start: {}", describe(status.error()));
        if (command_) {
            command_->abandon();
        }
        return kExitFailure;
    }
    // After the fork: the command keeps its limit, and may not come from a process of several
    // threads.
    raise_file_limit();
    // Throws where no thread is to be had: without one, no profile is written.
    std::thread([] {}).join();
    engine_.emplace(options_);
    auto run = ProfilingRun::make(*loop_, options_, *engine_, command_->pid());
    if (!run) {
        if (run.error().kind != ErrorKind::kRefused) {
            say("cannot start: {}", describe(run.error()));
        }
        command_->abandon();
        return kExitFailure;
    }
    run_ = std::move(*run);
    run_->on_finished([this] { on_profile_written(); });
    engine_->settle();  // the command is not to run before it can be sampled
    if (auto status = command_->execute(); !status) {
        run_->stop();  // leaves no file
        return report_not_executed(options_.command.front(), status.error().system_errno);
    }
    try {
        return run_beside_command(agent);
    } catch (const std::exception& error) {
        say("sampling has ended, and the profile may be lost: {}; the command goes on",
            describe(error));
    }
    return wait_for_command();
}

int Launch::run_beside_command(const std::string& agent) {
    // Now that the command runs, with all its rights.
    NeededRights needed = run_->needed_rights();
    needed.signals = true;
    keep_rights_only(needed, options_.verbose);
    if (options_.verbose) {
        say("process {} runs the command, with {}", command_->pid(), agent);
    }
    if (auto status = loop_->run(); !status) {
        say("sampling has ended, and the profile may be lost: {}; the command goes on",
            describe(status.error()));
        return wait_for_command();
    }
    return finish();
}

/// Without sampling: passes signals on until the command has ended.
int Launch::wait_for_command() {
    sigset_t set = with_failed_writes(kPassedSignals);
    sigaddset(&set, SIGCHLD);
    constexpr timespec kLook{0, 100'000'000};  // for a SIGCHLD that was taken before
    for (;;) {
        if (const auto status = command_->try_wait()) {
            return *status;
        }
        siginfo_t info{};
        const int number = sigtimedwait(&set, &info, &kLook);
        if (number > 0 && number != SIGCHLD && number != SIGPIPE && number != SIGXFSZ &&
            !(info.si_code == SI_KERNEL && command_->is_in_own_group())) {
            command_->signal(number);
        }
    }
}

void Launch::on_signal(const ReceivedSignal& signal) {
    const int number = signal.number;
    if (number == SIGCHLD) {
        on_command_end();
        return;
    }
    if (number == SIGPIPE || number == SIGXFSZ) {
        return;
    }
    if (!is_known_to_command(signal)) {
        command_->signal(number);
    }
    if (number != SIGUSR1 && number != SIGUSR2) {
        last_signal_ = number;
        run_->note_signal(number);
        run_->hurry(command_status_.has_value());
    }
}

/// Whether the command has got this signal without our doing: what the kernel sends comes from the
/// terminal, for the whole process group. But a hang-up is for the leader of the session alone,
/// which may be this process (tty_signal_session_leader() in drivers/tty/tty_jobctrl.c). What a
/// process sends may be for the group, too: the signal does not say so.
bool Launch::is_known_to_command(const ReceivedSignal& signal) {
    const bool is_for_us_alone = signal.number == SIGHUP && getsid(0) == getpid();
    return signal.is_from_kernel && !is_for_us_alone && command_->is_in_own_group();
}

void Launch::on_connect() {
    for (int taken = 0; taken < kMaxConnects; ++taken) {
        auto packet = rendezvous_.ours.receive();
        if (!packet) {
            if (packet.error().kind == ErrorKind::kProtocol) {
                continue;  // one that is no agent's
            }
            if (packet.error().kind == ErrorKind::kRefused ||
                packet.error().system_errno == EMFILE || packet.error().system_errno == ENFILE) {
                run_->miss_agent(packet.error());
                continue;
            }
            close_rendezvous();  // nobody is left that could connect
            return;
        }
        if (!packet->has_value()) {
            return;
        }
        if (!(*packet)->as<control::Connect>(control::MessageType::kConnect) ||
            (*packet)->fds.size() != 1) {
            continue;
        }
        if (auto channel = Channel::adopt(std::move((*packet)->fds.front()))) {
            Sender& sender = (*packet)->sender;
            const pid_t pid = sender.has_gone ? 0 : sender.pid;
            run_->add_agent(std::move(*channel), pid, std::move(sender.process));
        }
    }
}

void Launch::close_rendezvous() {
    if (rendezvous_.ours.is_open()) {
        loop_->remove(rendezvous_source_);
        rendezvous_.ours.close();
    }
}

void Launch::on_command_end() {
    command_status_ = command_->try_wait();
    if (!command_status_) {
        return;  // stopped or continued, or a child that this program inherited
    }
    if (rendezvous_.ours.is_open()) {
        on_connect();  // so that one who came and went is known of
        close_rendezvous();
    }
    if (run_->has_finished()) {
        loop_->stop();
    } else {
        run_->stop();
        if (last_signal_ != 0 && *command_status_ == kExitSignalBase + last_signal_) {
            run_->hurry(false);  // it was the end that was asked for
        }
    }
}

void Launch::on_profile_written() {
    if (!command_status_ && !run_->agents_seen()) {
        return;  // the command could not be executed
    }
    is_profile_written_ = run_->write_summary() != Outcome::kNotWritten;
    close_rendezvous();
    if (command_status_) {
        loop_->stop();
    }
}

/// Nothing is left to be done but this: signals end it as they end any program.
bool Launch::deliver() {
    sigset_t set;
    sigemptyset(&set);
    for (const int number : kPassedSignals) {
        sigaddset(&set, number);
    }
    sigprocmask(SIG_UNBLOCK, &set, nullptr);
    return run_->deliver();
}

int Launch::finish() {
    if (run_->agents_seen() == 0) {
        NoPython facts;
        facts.lived_ns = monotonic_ns() - since_ns_;
        facts.signal = command_->ending_signal() != 0 ? command_->ending_signal() : last_signal_;
        say("{}", explain_no_python(options_.command.front(), facts));
        return *command_status_;
    }
    // That sampling could not begin, or went wrong, has been told: the status is the command's.
    return deliver() && is_profile_written_ ? *command_status_ : kExitFailure;
}

}  // namespace

int run_launch(const Options& options) { return Launch(options).run(); }

}  // namespace echion::cli
