#include "cli/foreign_fd.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <system_error>
#include <thread>

namespace echion::cli {
namespace {

/// Threads that close at a time: each is a descriptor whose owner means ill, but for a moment.
constexpr int kMaxClosing = 32;

std::atomic<int> closing{0};

}  // namespace

void ForeignFd::reset() {
    if (!fd_) {
        return;
    }
    const int fd = fd_.release();
    if (closing.fetch_add(1) >= kMaxClosing) {
        --closing;
        return;
    }
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the event loop
    try {
        std::thread([fd] {
            ::close(fd);
            --closing;
        }).detach();
    } catch (const std::system_error&) {
        --closing;
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

}  // namespace echion::cli
