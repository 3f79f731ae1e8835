#pragma once

#include <signal.h>
#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"

namespace echion::cli {

/// A command in a child process of this one: forked at once, so that its process id is known, and
/// executed when it is let go.
class Command {
  public:
    /// Forks. The child waits in front of exec with the signal mask `mask`, in the same process
    /// group and session. `inherited_fd` stays open in it under the same number; `environment` is
    /// its whole environment.
    static Result<Command> fork(const std::vector<std::string>& arguments,
                                const std::vector<std::string>& environment, int inherited_fd,
                                const sigset_t& mask);

    Command(Command&&) = default;
    Command& operator=(Command&&) = delete;
    /// A child that was never let go ends by itself.
    ~Command() = default;

    [[nodiscard]] pid_t pid() const { return pid_; }
    /// Lets the child execute the command, and waits until it does. kSystem with the errno of
    /// execvp when it could not; the child is gone then.
    Status execute();
    /// Ends the child in front of exec and reaps it.
    void abandon();
    /// Passes a signal on; nothing happens when the command has ended.
    void signal(int number) const;
    /// Whether it is in this process's process group still, which it may leave at any time.
    [[nodiscard]] bool is_in_own_group() const;
    /// The exit status as a shell tells it (128 + N for signal N) once the command has ended.
    std::optional<int> try_wait();
    /// The signal that ended it, after try_wait(); 0: none, or it has not ended. An exit status
    /// above 128 is none.
    [[nodiscard]] int ending_signal() const { return ending_signal_; }

  private:
    Command(pid_t pid, UniqueFd go, UniqueFd failure)
        : pid_(pid), go_(std::move(go)), failure_(std::move(failure)) {}

    pid_t pid_;
    UniqueFd go_;       // a byte lets the child go, hang-up ends it
    UniqueFd failure_;  // brings exec's errno; hangs up when it succeeds
    std::optional<int> status_;
    int ending_signal_ = 0;
};

}  // namespace echion::cli
