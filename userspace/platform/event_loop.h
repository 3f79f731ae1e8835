#pragma once

#include <signal.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>

#include "base/error.h"
#include "base/unique_fd.h"

namespace echion {

/// Waits for many descriptors at once and calls the handler of each that is ready. One
/// thread. Handlers may add and remove sources, their own included.
class EventLoop {
  public:
    using Handler = std::function<void()>;
    using Source = std::uint64_t;

    static Result<EventLoop> make();

    /// Calls `handler` whenever `fd` is readable or hung up. The descriptor stays the caller's and
    /// must be open until it is removed.
    Result<Source> add(int fd, Handler handler);
    void remove(Source source);

    /// Runs handlers until stop().
    Status run();
    void stop() { stopped_ = true; }

  private:
    struct Entry {
        int fd;
        Handler handler;
    };
    explicit EventLoop(UniqueFd queue) : queue_(std::move(queue)) {}

    UniqueFd queue_;  // the system's
    // Sources are never numbered twice, so that an event for a source that has just been removed
    // finds nobody, even if its descriptor's number is in use again.
    Source next_source_ = 1;
    std::unordered_map<Source, std::shared_ptr<Entry>> entries_;
    bool stopped_ = false;
};

/// A one-shot timer of the loop.
class Timer {
  public:
    static Result<Timer> make(EventLoop& loop, EventLoop::Handler handler);
    Timer(Timer&&) = default;
    Timer& operator=(Timer&&) = delete;
    ~Timer();

    /// Goes off once, `delay_ns` from now; replaces what was set before.
    void arm(std::uint64_t delay_ns);
    void disarm();

  private:
    Timer(EventLoop& loop, UniqueFd fd) : loop_(&loop), fd_(std::move(fd)) {}

    EventLoop* loop_;
    UniqueFd fd_;
    EventLoop::Source source_ = 0;
};

/// These signals, and those of writes that fail. Blocked rather than ignored, they leave it at
/// that: a write to a closed pipe fails with EPIPE, one beyond the limit of file sizes with EFBIG,
/// and a command still inherits the dispositions that this program was started with.
sigset_t with_failed_writes(std::span<const int> signals);

/// A signal that this process was sent.
struct ReceivedSignal {
    int number = 0;
    /// The kernel sent it by itself (SI_KERNEL): a terminal's keys, or its hang-up.
    bool is_from_kernel = false;
};

/// The program's signals as events. Blocks them for good: one that comes when the run has ended
/// does not change its status, nor does one that a failed write left behind (SIGXFSZ).
class Signals {
  public:
    using Handler = std::function<void(const ReceivedSignal&)>;

    static Result<Signals> make(EventLoop& loop, const sigset_t& signals, Handler handler);
    Signals(Signals&&) = default;
    Signals& operator=(Signals&&) = delete;
    ~Signals();

    /// The mask as it was, for a child to start with.
    [[nodiscard]] const sigset_t& original_mask() const { return original_mask_; }

  private:
    Signals(EventLoop& loop, UniqueFd fd, const sigset_t& original_mask)
        : loop_(&loop), fd_(std::move(fd)), original_mask_(original_mask) {}

    EventLoop* loop_;
    UniqueFd fd_;
    sigset_t original_mask_;
    EventLoop::Source source_ = 0;
};

}  // namespace echion
