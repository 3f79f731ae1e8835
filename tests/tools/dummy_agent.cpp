// A stand-in for the agent: starts a thread that answers on the control socket until it is told to
// stop or the other side hangs up, and can be attached again after that.

#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "base/attach_part.h"

namespace {

std::atomic<bool> is_active{false};
std::atomic<int> channel{-1};

void* answer(void*) {
    const int fd = channel.load();
    char byte = 'h';
    if (send(fd, &byte, 1, MSG_NOSIGNAL) == 1) {
        // Any packet or the end of the connection stops it.
        while (recv(fd, &byte, 1, 0) < 0 && errno == EINTR) {
        }
        byte = 's';
        (void)send(fd, &byte, 1, MSG_NOSIGNAL);
    }
    close(fd);
    is_active.store(false);
    return nullptr;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int echion_attach(int control_fd, int part) {
    if (part == echion::kAgentBeside) {
        return 0;  // nothing of it has to share the program's descriptors
    }
    if (is_active.exchange(true)) {
        close(control_fd);
        return EBUSY;
    }
    channel.store(control_fd);
    sigset_t all;
    sigset_t kept;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &kept);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_t thread;
    const int error = pthread_create(&thread, &attributes, answer, nullptr);
    pthread_attr_destroy(&attributes);
    pthread_sigmask(SIG_SETMASK, &kept, nullptr);
    if (error != 0) {
        close(control_fd);
        is_active.store(false);
    }
    return error;
}
