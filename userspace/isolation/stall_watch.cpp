#include "isolation/stall_watch.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "base/clock.h"
#include "console/exit_status.h"
#include "console/refusal.h"

namespace echion {
namespace {

constexpr std::chrono::milliseconds kLookPeriod{250};

}  // namespace

StallWatch::StallWatch(std::function<void()> on_stall) : on_stall_(std::move(on_stall)) {
    thread_ = std::thread([this] { watch(); });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return has_begun_; });
}

StallWatch::~StallWatch() {
    {
        const std::lock_guard lock(mutex_);
        is_ending_ = true;
    }
    changed_.notify_one();
    thread_.join();
}

void StallWatch::watch() {
    // It takes no signals: they are the others' to wait for.
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);
    std::int64_t late_ns = 0;
    std::unique_lock lock(mutex_);
    has_begun_ = true;
    changed_.notify_one();
    while (!changed_.wait_for(lock, kLookPeriod, [this] { return is_ending_; })) {
        const std::int64_t before_ns = std::exchange(late_ns, guard_.find_late(monotonic_ns()));
        if (late_ns != 0 && late_ns == before_ns && guard_.give_up(late_ns)) {
            on_stall_();
            leave_at_once(kExitFailure);
        }
    }
}

void leave_at_once(int status) {
    for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
        close(fd);
    }
    _exit(status);
}

std::string explain_stall(pid_t pid) {
    return "gave up reading " + describe_process(pid) +
           ": its memory or one of its files does not answer (a page of a FUSE or network file "
           "system, or of userfaultfd, whose server hangs?)";
}

}  // namespace echion
