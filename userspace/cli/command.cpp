#include "cli/command.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

namespace echion::cli {
namespace {

std::vector<char*> make_pointers(const std::vector<std::string>& texts) {
    std::vector<char*> pointers;
    pointers.reserve(texts.size() + 1);
    for (const std::string& text : texts) {
        pointers.push_back(const_cast<char*>(text.c_str()));
    }
    pointers.push_back(nullptr);
    return pointers;
}

struct Pipe {
    UniqueFd read_end;
    UniqueFd write_end;
};

Result<Pipe> make_pipe() {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0) {
        return fail(ErrorKind::kSystem, "make a pipe", errno);
    }
    return Pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

/// read() or write() of one small object, through interruptions.
template <typename Call>
bool transfer(Call call, std::size_t size_bytes) {
    ssize_t count = 0;
    do {
        count = call();
    } while (count < 0 && errno == EINTR);
    return count == static_cast<ssize_t>(size_bytes);
}

[[noreturn]] void run_child(char** arguments, char** environment, int go, int failure,
                            const sigset_t& mask) {
    char byte = 0;
    if (!transfer([&] { return ::read(go, &byte, 1); }, 1)) {
        _exit(0);
    }
    sigprocmask(SIG_SETMASK, &mask, nullptr);
    environ = environment;
    execvp(arguments[0], arguments);
    const int error = errno;
    transfer([&] { return ::write(failure, &error, sizeof(error)); }, sizeof(error));
    _exit(127);
}

}  // namespace

Result<Command> Command::fork(const std::vector<std::string>& arguments,
                              const std::vector<std::string>& environment, int inherited_fd,
                              const sigset_t& mask) {
    auto go = make_pipe();
    auto failure = make_pipe();
    if (!go || !failure) {
        return tl::unexpected((!go ? go : failure).error());
    }
    const auto argument_pointers = make_pointers(arguments);
    const auto environment_pointers = make_pointers(environment);
    const pid_t pid = ::fork();
    if (pid < 0) {
        return fail(ErrorKind::kSystem, "start the command (fork)", errno);
    }
    if (pid == 0) {
        // The other ends must not keep each other alive.
        go->write_end.reset();
        failure->read_end.reset();
        if (fcntl(inherited_fd, F_SETFD, 0) != 0) {
            _exit(127);
        }
        run_child(const_cast<char**>(argument_pointers.data()),
                  const_cast<char**>(environment_pointers.data()), go->read_end.get(),
                  failure->write_end.get(), mask);
    }
    return Command(pid, std::move(go->write_end), std::move(failure->read_end));
}

Status Command::execute() {
    const char byte = 0;
    transfer([&] { return ::write(go_.get(), &byte, 1); }, 1);
    go_.reset();
    int error = 0;
    const bool failed =
        transfer([&] { return ::read(failure_.get(), &error, sizeof(error)); }, sizeof(error));
    failure_.reset();
    if (failed) {
        abandon();
        return fail(ErrorKind::kSystem, "run the command", error);
    }
    return {};
}

void Command::abandon() {
    go_.reset();
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    status_ = 0;
}

void Command::signal(int number) const {
    // The child stays a zombie until it is reaped here, so the pid is nobody else's.
    if (!status_) {
        kill(pid_, number);
    }
}

bool Command::is_in_own_group() const { return getpgid(pid_) == getpgrp(); }

std::optional<int> Command::try_wait() {
    if (!status_) {
        int status = 0;
        if (waitpid(pid_, &status, WNOHANG) == pid_) {
            ending_signal_ = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
            status_ = ending_signal_ != 0 ? 128 + ending_signal_ : WEXITSTATUS(status);
        }
    }
    return status_;
}

}  // namespace echion::cli
