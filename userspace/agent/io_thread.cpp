#include "agent/io_thread.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "agent/thread_clock.h"
#include "base/clock.h"

namespace echion::agent {
namespace {

// What a pipe takes without blocking once it polls as writable.
constexpr std::size_t kWriteBytes = 4096;
// How long standard error may take nothing.
constexpr int kPatienceMs = 1000;

bool write_whole(std::string_view text) {
    while (!text.empty()) {
        pollfd output{STDERR_FILENO, POLLOUT, 0};
        const int ready = poll(&output, 1, kPatienceMs);
        if (ready < 0 && errno == EINTR) {
            continue;
        }
        const ssize_t written =
            ready > 0 ? ::write(STDERR_FILENO, text.data(), std::min(text.size(), kWriteBytes))
                      : -1;
        if (written > 0) {
            text.remove_prefix(static_cast<std::size_t>(written));
        } else if (ready <= 0 || (errno != EINTR && errno != EAGAIN)) {
            return false;
        }
    }
    return true;
}

}  // namespace

bool IoThread::write_error(std::string_view text) {
    text_ = text;
    return ask(kWrite);
}

bool IoThread::ask(Request request) {
    set_and_wake(request_, request);
    wait_while(request_, request);
    return answer_;
}

void IoThread::end() {
    settle();
    set_and_wake(request_, kEnd);
}

std::int64_t IoThread::cpu_ns() const {
    const pid_t tid = tid_.load();
    return tid == 0 ? 0 : read_clock_ns(thread_cpu_clock(static_cast<std::uint32_t>(tid)));
}

void IoThread::begin() { tid_.store(static_cast<pid_t>(syscall(SYS_gettid))); }

void IoThread::serve() {
    for (;;) {
        wait_while(request_, kNone);
        switch (request_.load()) {
            case kWrite:
                answer_ = write_whole(text_);
                break;
            case kAskTerminal:
                answer_ = isatty(STDERR_FILENO) != 0;
                break;
            default:
                return;
        }
        set_and_wake(request_, kNone);
    }
}

}  // namespace echion::agent
