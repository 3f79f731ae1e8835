#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "base/unique_fd.h"
#include "inject/target_identity.h"

namespace echion::inject {

/// The descriptor table of one thread of a target, which may not be the program's.
class ThreadDescriptors {
  public:
    /// Whether descriptors can be fetched from a single thread (Linux 6.9). Tried on this one.
    static bool are_supported();

    /// `own_tid`: the thread's number as the target sees it, in its own PID namespace. Whatever it
    /// says, what is opened is a thread of this very process: kSystem with ESRCH if it has none of
    /// that number, kRefused or ESRCH if the target is not the same any more.
    static Result<ThreadDescriptors> open(TargetIdentity& target, pid_t own_tid);

    /// For pidfd_getfd(2).
    [[nodiscard]] int pidfd() const { return pidfd_.get(); }

  private:
    explicit ThreadDescriptors(UniqueFd pidfd) : pidfd_(std::move(pidfd)) {}

    UniqueFd pidfd_;
};

}  // namespace echion::inject
