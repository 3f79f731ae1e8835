#pragma once

#include <sys/types.h>

#include <string>

#include "base/error.h"
#include "base/unique_fd.h"
#include "inject/target_memory.h"
#include "platform/process_info.h"
#include "platform/program_image.h"

namespace echion::inject {

/// Which process, and which program image in it, is being attached to: held from before the first
/// look, and compared after every stop, before anything is written. Process numbers, thread numbers
/// and addresses alone would also fit a later process, and a program that this one has executed
/// since: a set-uid one, say, in which what was found before would be an attacker's choice.
///
/// What proves that it is the same: the pidfd (the process), the memory descriptor (its address
/// space, which an exec replaces), its executable's inode, the places of its code, data and stack
/// (which each exec draws anew), and that the process has no more rights than at first.
///
/// Any thread, one at a time.
class TargetIdentity {
  public:
    /// Waits a moment for a process that executes another program just now. kSystem with errno
    /// (EINVAL or ENOENT: the number is that of a thread; EPERM: it may not be looked at);
    /// kRefused: it executes one program after the other. `guard` is told of what reads and writes
    /// its memory, if there is one.
    static Result<TargetIdentity> hold(pid_t pid, StallGuard* guard = nullptr);

    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] int pidfd() const { return pidfd_.get(); }
    /// An address in the stack of the process's first thread.
    [[nodiscard]] Address in_main_stack() const { return probe_; }
    /// The memory of the image; lives as long as this object.
    [[nodiscard]] TargetMemory& memory() { return memory_; }

    /// Whether the process has ended; waits for that up to `patience_ms`.
    [[nodiscard]] bool has_ended(int patience_ms = 0) const;
    /// What the process runs.
    [[nodiscard]] const ProgramImage& image() const { return image_; }
    /// kSystem with ESRCH: the process has ended; with another errno: it cannot be looked at for
    /// want of descriptors or memory. kRefused: it has executed another program, or has gained
    /// rights.
    Status check();
    /// The same, and that `tid` is one of its threads (else kSystem with ESRCH). The calling thread
    /// traces it, so that the number cannot be given to another one meanwhile.
    Status check_thread(pid_t tid);

    /// Writes, if it is still the same, when no thread of it is held.
    template <typename T>
    Status write_later(Address to, const T& value) {
        if (!memory_.is_bound()) {
            if (auto status = check(); !status) {
                return status;
            }
        }
        return memory_.write_value(to, value);
    }

    /// Whether its memory is that of its parent too, as a child's of vfork(2) is until it executes
    /// a program: what is loaded into it would stay in the parent. False if it cannot be told.
    [[nodiscard]] bool shares_parents_memory() const;

  private:
    TargetIdentity(pid_t pid, UniqueFd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}
    static Result<TargetIdentity> hold_once(pid_t pid, StallGuard* guard);
    /// kSystem with ESRCH or kRefused: why the memory or the image is not what it was.
    [[nodiscard]] tl::unexpected<Error> explain_loss() const;

    pid_t pid_;
    UniqueFd pidfd_;
    TargetMemory memory_;
    Address probe_;  // in the first thread's stack, mapped as long as the image is
    ProgramImage image_;
    ProcessInfo at_first_;
};

/// One line on a process that is not what it was at first, by what TargetIdentity::check() said.
std::string explain_change(pid_t pid, const Error& error);

}  // namespace echion::inject
