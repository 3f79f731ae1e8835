#pragma once

#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>

#include "base/error.h"
#include "inject/loader.h"
#include "isolation/stall_watch.h"
#include "platform/event.h"
#include "platform/event_loop.h"

namespace echion::cli {

/// An injection on a thread of its own, so that this program hears signals meanwhile, and can end
/// though the target's memory or files keep that thread waiting.
class Injecting {
  public:
    /// Begins; `on_done` runs in the loop when the result is there. `agent` outlives the thread.
    static Result<std::unique_ptr<Injecting>> start(EventLoop& loop, pid_t pid,
                                                    inject::InjectLimits limits,
                                                    std::span<const std::byte> agent,
                                                    std::string name, EventLoop::Handler on_done);
    ~Injecting();
    Injecting(const Injecting&) = delete;
    Injecting& operator=(const Injecting&) = delete;

    /// Asks it to end soon, with the target as it was.
    void cancel() { is_cancelled_.store(true); }
    [[nodiscard]] bool is_cancelled() const { return is_cancelled_.load(); }
    /// Whether it waits for a read that does not come back: its thread will not end.
    [[nodiscard]] bool is_stalled() const { return is_stalled_.load(); }
    /// Once, when it is done and not stalled.
    inject::InjectResult take_result();

  private:
    Injecting(EventLoop& loop, Event done) : loop_(loop), done_(std::move(done)) {}
    void run(pid_t pid, const inject::AgentImage& image, inject::InjectLimits limits);

    EventLoop& loop_;
    Event done_;
    EventLoop::Source source_ = 0;
    std::atomic<bool> is_cancelled_{false};
    std::atomic<bool> is_stalled_{false};
    StallWatch watch_{[this] {
        is_stalled_.store(true);
        done_.raise();
        for (;;) {
            pause();  // the loop ends the program
        }
    }};
    std::optional<inject::InjectResult> result_;  // the thread's until it has ended
    std::thread thread_;
};

}  // namespace echion::cli
