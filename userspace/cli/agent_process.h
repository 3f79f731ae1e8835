#pragma once

#include <sys/types.h>

#include <optional>

#include "base/error.h"
#include "base/unique_fd.h"
#include "platform/process_info.h"
#include "platform/program_image.h"

namespace echion::cli {

/// The process that an agent is in, held by a descriptor. A number alone may be another process's
/// by the time that it is used; and a process that has executed a set-uid program is not the
/// agent's any more. Whatever this program does to a process for its agent (signals, BPF, perf
/// events), it does between two calls of check().
class AgentProcess {
  public:
    /// `descriptor`: of that process (open_process()), `image`: the program that it runs, where
    /// they are known already. kSystem ESRCH when there is no such process. Where the system has no
    /// such descriptors the process is not pinned: it may be sampled, but nothing may be done to
    /// it.
    static Result<AgentProcess> pin(pid_t pid, UniqueFd descriptor = {},
                                    const std::optional<ProgramImage>& image = {});

    /// In this program's PID namespace.
    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] bool is_pinned() const { return descriptor_ && at_first_; }
    /// Readable when the process has ended; -1: there is none.
    [[nodiscard]] int descriptor() const { return descriptor_.get(); }
    /// With its number it names the process: an exec keeps it. 0: not known.
    [[nodiscard]] std::uint64_t start_ticks() const { return start_ticks_; }
    /// Whether it has ended, zombies included. False without a descriptor.
    [[nodiscard]] bool has_ended() const;

    /// Whether it runs another program than when it was pinned; for messages only, as a privileged
    /// process may change what is compared (PR_SET_MM). False when it cannot be told, and in the
    /// middle of an exec.
    [[nodiscard]] bool has_executed() const;
    /// Whether it lives, and runs the program that it ran when it was pinned; as above, but false
    /// when it cannot be told.
    [[nodiscard]] bool runs_same_program() const;
    /// Waits, at most so long, until it has ended or has executed another program.
    void wait_for_change(int patience_ms) const;

    /// Whether the number still means this process, and the process has no more rights than when it
    /// was pinned. Errors: kSystem with ESRCH when it has ended, with another errno when it cannot
    /// be looked at; kRefused when it has gained rights or is not pinned.
    [[nodiscard]] Status check() const;

  private:
    AgentProcess(pid_t pid, UniqueFd descriptor) : pid_(pid), descriptor_(std::move(descriptor)) {}

    pid_t pid_;
    UniqueFd descriptor_;
    ProgramImage image_;
    std::uint64_t start_ticks_ = 0;
    std::optional<ProcessInfo> at_first_;  // nothing where it is hidden
};

}  // namespace echion::cli
