#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "memory/stall_guard.h"

namespace echion {

/// Ends the program when its target holds it up: a thread of its own that looks at a StallGuard
/// four times a second, as long as it lives. A process can back its memory and its files with pages
/// that somebody serves (FUSE, userfaultfd(2)), and a read of one takes as long as that somebody
/// likes. Such a read can only be ended with the program: its wait takes none but fatal signals.
///
/// Twice in a row the same deadline must have passed: a program that was stopped (Ctrl-Z) finds all
/// of its deadlines passed when it goes on.
class StallWatch {
  public:
    /// `on_stall` runs on the watch's thread, when the guarded thread will not come back; it may
    /// use what that thread uses otherwise. Then the program exits with kExitFailure, without
    /// running destructors: the kernel lets go of what was traced.
    explicit StallWatch(std::function<void()> on_stall);
    ~StallWatch();
    StallWatch(const StallWatch&) = delete;
    StallWatch& operator=(const StallWatch&) = delete;

    [[nodiscard]] StallGuard& guard() { return guard_; }

  private:
    void watch();

    StallGuard guard_;
    std::function<void()> on_stall_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool has_begun_ = false;
    bool is_ending_ = false;
    std::thread thread_;
};

/// Ends the program without running destructors, though a thread of it may be in a read that keeps
/// it: closes the standard descriptors first, for whose end their readers need not wait.
[[noreturn]] void leave_at_once(int status);

/// What the user is told of a stalled read.
std::string explain_stall(pid_t pid);

}  // namespace echion
