#include "agent/process_end.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "platform/own_thread.h"

namespace echion::agent {

void unblock_signals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_UNBLOCK, &all, nullptr);
}

void end_process_with(int status) {
    const int number = WTERMSIG(status);
    // That thread alone was killed: by seccomp's strict mode, or by a filter.
    if (WIFSIGNALED(status) && (number == SIGKILL || number == SIGSYS)) {
        struct sigaction action {};
        action.sa_handler = SIG_DFL;
        sigaction(number, &action, nullptr);
        unblock_signals();
        kill(getpid(), number);
    }
    end_own_thread(WEXITSTATUS(status));
}

}  // namespace echion::agent
