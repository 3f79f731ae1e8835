#include "isolation/aside.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "base/unique_fd.h"
#include "console/exit_status.h"
#include "console/message.h"
#include "isolation/stall_watch.h"
#include "platform/own_descriptors.h"
#include "platform/own_thread.h"

namespace echion {
namespace {

constexpr int kWordFd = STDERR_FILENO + 1;
constexpr int kSignalStatus = 128;  // the shell's convention

int run_watched(pid_t pid, FunctionRef<int(StallGuard&)> work, int word_fd) {
    StallWatch watch([pid, word_fd] {
        print_message(explain_stall(pid));
        if (word_fd < 0) {
            return;
        }
        // Whoever reads what this program writes is to see its end, too.
        for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
            close(fd);
        }
        const char word = 's';
        if (write(word_fd, &word, 1) != 1) {
            return;  // nobody waits any more
        }
    });
    return work(watch.guard());
}

/// Keeps the pipe and the standard descriptors only: what this program has open (the kernel's
/// programs, the output) must not stay open as long as a child that cannot end.
void close_others(int word_fd) {
    if (word_fd != kWordFd) {
        dup2(word_fd, kWordFd);
    }
    close_descriptors_from(kWordFd + 1);
}

int wait_for(pid_t child, int word_fd) {
    char word = 0;
    ssize_t got = 0;
    do {
        got = read(word_fd, &word, 1);
    } while (got < 0 && errno == EINTR);
    if (got == 1) {
        return kExitFailure;
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0) {
        if (errno != EINTR) {
            return kExitFailure;
        }
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : kSignalStatus + WTERMSIG(status);
}

}  // namespace

int run_aside(pid_t pid, FunctionRef<int(StallGuard&)> work, FunctionRef<void()> meanwhile) {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        meanwhile();
        return run_watched(pid, work, -1);
    }
    const UniqueFd reading(ends[0]);
    UniqueFd writing(ends[1]);
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child < 0) {
        meanwhile();
        return run_watched(pid, work, -1);
    }
    if (child == 0) {
        end_with_parent();
        if (getppid() != parent) {
            _exit(kExitFailure);
        }
        close_others(writing.get());
        _exit(run_watched(pid, work, kWordFd));
    }
    writing.reset();
    meanwhile();
    return wait_for(child, reading.get());
}

}  // namespace echion
