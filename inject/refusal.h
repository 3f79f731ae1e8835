#pragma once

#include <sys/types.h>

#include <string>

#include "base/error.h"

namespace echion::inject {

/// What was refused.
enum class Access {
    kTrace,  ///< To stop and change the process.
    kRead,   ///< To read its memory, which another tracer does not prevent.
};

/// One line that says why process `pid` may not be traced or read, and the way out: which of
/// another tracer, uid, CAP_SYS_PTRACE, Yama's ptrace_scope, seccomp, user namespace stands in the
/// way, as far as it can be known from here. Whether the process is still the same has been looked
/// at before: one that ends or executes a program gives the same errors.
std::string explain_refusal(pid_t pid, int system_errno, Access access = Access::kTrace);

/// One line on a process that is not what it was at first, by what TargetIdentity::check() said.
std::string explain_change(pid_t pid, const Error& error);

/// "process 123 (name)".
std::string describe_process(pid_t pid);

}  // namespace echion::inject
