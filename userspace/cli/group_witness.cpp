#include "cli/group_witness.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <limits>
#include <utility>

#include "base/clock.h"

namespace echion::cli {
namespace {

/// What the witness got longer ago belongs to a signal that has been dealt with.
constexpr std::int64_t kFreshNs = 5 * kNanosPerSecond;
constexpr int kAnswerTimeoutMs = 1000;
/// A process without arguments goes by this name.
constexpr char kName[] = "signal-witness";

/// Takes the arguments out of /proc/self/cmdline, where `pkill -f` looks.
void hide_arguments() {
    const UniqueFd file(open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC));
    std::array<char, 4096> buffer;
    std::size_t size = 0;
    for (ssize_t got = 0; (got = read(file.get(), buffer.data(), buffer.size())) > 0;) {
        size += static_cast<std::size_t>(got);
    }
    std::memset(program_invocation_name, 0, size);  // argv[0]; the others follow it
}

[[noreturn]] void witness(int socket) {
    hide_arguments();
    prctl(PR_SET_NAME, kName);
    dup2(socket, STDIN_FILENO);
    socket = STDIN_FILENO;
    if (syscall(SYS_close_range, 1U, ~0U, 0U) != 0) {
        for (int fd = static_cast<int>(sysconf(_SC_OPEN_MAX)) - 1; fd > socket; --fd) {
            close(fd);
        }
    }
    sigset_t all;
    sigfillset(&all);
    const int signals = signalfd(-1, &all, SFD_NONBLOCK);
    std::array<std::int64_t, NSIG> seen_ns;
    seen_ns.fill(std::numeric_limits<std::int64_t>::min() / 2);
    for (;;) {
        pollfd entries[] = {{socket, POLLIN, 0}, {signals, POLLIN, 0}};
        poll(entries, 2, -1);
        signalfd_siginfo info{};
        while (read(signals, &info, sizeof(info)) == static_cast<ssize_t>(sizeof(info))) {
            if (info.ssi_signo < NSIG) {
                seen_ns[info.ssi_signo] = monotonic_ns();
            }
        }
        if (entries[0].revents == 0) {
            continue;
        }
        unsigned char number = 0;
        if (recv(socket, &number, 1, 0) != 1) {
            _exit(0);
        }
        std::int64_t& last_ns = seen_ns[number % NSIG];
        const unsigned char answer = monotonic_ns() - last_ns < kFreshNs ? 1 : 0;
        last_ns = std::numeric_limits<std::int64_t>::min() / 2;
        send(socket, &answer, 1, MSG_NOSIGNAL);
    }
}

}  // namespace

Result<GroupWitness> GroupWitness::start() {
    int fds[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) != 0) {
        return fail(ErrorKind::kSystem, "make a socket", errno);
    }
    UniqueFd ours(fds[0]);
    const UniqueFd theirs(fds[1]);
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    const pid_t pid = fork();
    const int error = errno;
    if (pid == 0) {
        ours.reset();
        witness(theirs.get());
    }
    sigprocmask(SIG_SETMASK, &before, nullptr);
    if (pid < 0) {
        return fail(ErrorKind::kSystem, "watch the process group (fork)", error);
    }
    return GroupWitness(pid, std::move(ours));
}

GroupWitness::GroupWitness(pid_t pid, UniqueFd socket) : pid_(pid), socket_(std::move(socket)) {}

GroupWitness::GroupWitness(GroupWitness&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)), socket_(std::move(other.socket_)) {}

GroupWitness::~GroupWitness() {
    socket_.reset();
    if (pid_ > 0) {
        // It may be stopped together with the rest of its group.
        kill(pid_, SIGKILL);
        while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
        }
    }
}

bool GroupWitness::has_seen(int signal) {
    // The kernel goes through a group with the list of processes locked for reading. This changes
    // nothing, but locks it for writing (kernel/sys.c): then the whole group has the signal.
    setpgid(0, getpgrp());
    unsigned char number = static_cast<unsigned char>(signal);
    pollfd entry{socket_.get(), POLLIN, 0};
    return send(socket_.get(), &number, 1, MSG_NOSIGNAL) == 1 &&
           poll(&entry, 1, kAnswerTimeoutMs) == 1 && recv(socket_.get(), &number, 1, 0) == 1 &&
           number == 1;
}

}  // namespace echion::cli
