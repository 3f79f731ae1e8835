#include "isolation/foreign_fd.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

#include "base/clock.h"
#include "console/message.h"

namespace echion {
namespace {

/// Threads that close at a time: each is a descriptor whose owner means ill, but for a moment.
constexpr std::size_t kMaxClosing = 32;
/// A descriptor that is being closed for longer than that is one that does not come to close.
constexpr std::int64_t kStuckNs = kNanosPerSecond;

/// Closes descriptors on threads of its own. Any thread.
class Closers {
  public:
    void close(int fd) {
        const char* complaint = nullptr;
        {
            const std::lock_guard lock(mutex_);
            waiting_.push_back(fd);
            if (!start() && !has_complained_) {
                complaint = find_complaint();
                has_complained_ = complaint != nullptr;
            }
        }
        if (complaint != nullptr) {
            say("{}", complaint);
        }
    }

    std::size_t count_waiting() {
        const std::lock_guard lock(mutex_);
        return waiting_.size();
    }

  private:
    /// Has another thread close what waits, if there may be one more.
    bool start() {
        auto* const place = std::find(since_ns_.begin(), since_ns_.end(), kIdle);
        if (place == since_ns_.end()) {
            return false;
        }
        sigset_t all;
        sigset_t before;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);  // signals are for the event loop
        try {
            std::thread([this, place] { run(*place); }).detach();
            *place = monotonic_ns();
        } catch (const std::system_error&) {
            // Those that there are take it up.
        }
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return *place != kIdle;
    }

    void run(std::int64_t& since_ns) {
        std::unique_lock lock(mutex_);
        while (!waiting_.empty()) {
            const int fd = waiting_.front();
            waiting_.pop_front();
            since_ns = monotonic_ns();
            lock.unlock();
            ::close(fd);
            lock.lock();
        }
        since_ns = kIdle;
    }

    /// What there is to say of descriptors that are not being closed; null: they soon will be.
    [[nodiscard]] const char* find_complaint() const {
        // A few harm nobody, and may be all that there are before this program ends.
        const bool has_threads =
            std::any_of(since_ns_.begin(), since_ns_.end(),
                        [](std::int64_t since_ns) { return since_ns != kIdle; });
        if (!has_threads && waiting_.size() <= kMaxClosing) {
            return nullptr;
        }
        const std::int64_t stuck_since_ns = monotonic_ns() - kStuckNs;
        const bool are_all_stuck = std::none_of(
            since_ns_.begin(), since_ns_.end(),
            [&](std::int64_t since_ns) { return since_ns != kIdle && since_ns > stuck_since_ns; });
        if (!are_all_stuck) {
            return nullptr;
        }
        return std::count(since_ns_.begin(), since_ns_.end(), kIdle) == 0
                   ? "many descriptors that processes have handed over do not come to close (a "
                     "hostile process?); further ones stay open until they do"
                   : "many descriptors that processes have handed over stay open: no thread can be "
                     "made to close them (see ulimit -u, -v and -d)";
    }

    static constexpr std::int64_t kIdle = -1;

    std::mutex mutex_;
    std::deque<int> waiting_;
    /// Of each thread: since when it has been closing one; kIdle: there is no such thread.
    std::array<std::int64_t, kMaxClosing> since_ns_ = [] {
        std::array<std::int64_t, kMaxClosing> none{};
        none.fill(kIdle);
        return none;
    }();
    bool has_complained_ = false;
};

/// Never destroyed: its threads may outlive this program's end of main().
Closers& closers() {
    static auto* const all = new Closers;
    return *all;
}

}  // namespace

void ForeignFd::reset() {
    if (fd_) {
        closers().close(fd_.release());
    }
}

std::size_t ForeignFd::count_waiting() { return closers().count_waiting(); }

}  // namespace echion
