#pragma once

#include <sys/types.h>

#include <optional>

#include "base/error.h"
#include "base/unique_fd.h"
#include "platform/process_info.h"

namespace echion::cli {

/// The process that an agent is in, held by a pidfd. A number alone may be another process's by the
/// time that it is used; and a process that has executed a set-uid program is not the agent's any
/// more. Whatever this program does to a process for its agent (signals, BPF, perf events), it does
/// between two calls of check().
class AgentProcess {
  public:
    /// `pidfd`: of that process, if there is one already. kSystem ESRCH when there is no such
    /// process. Where the system has no pidfds (Linux before 5.3, some seccomp filters) the process
    /// is not pinned: it may be sampled, but nothing may be done to it.
    static Result<AgentProcess> pin(pid_t pid, UniqueFd pidfd = {});

    /// In this program's PID namespace.
    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] bool is_pinned() const { return pidfd_ && at_first_; }
    /// Readable when the process has ended; -1: there is none.
    [[nodiscard]] int pidfd() const { return pidfd_.get(); }
    /// Whether it has ended, zombies included. False without a pidfd.
    [[nodiscard]] bool has_ended() const;

    /// Whether the number still means this process, and the process has no more rights than when it
    /// was pinned. Errors: kSystem with ESRCH when it has ended, with another errno when it cannot
    /// be looked at; kRefused when it has gained rights or is not pinned.
    [[nodiscard]] Status check() const;

  private:
    AgentProcess(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}

    pid_t pid_;
    UniqueFd pidfd_;
    std::optional<ProcessInfo> at_first_;  // nothing where /proc hides it
};

}  // namespace echion::cli
