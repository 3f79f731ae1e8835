#pragma once

#include <sys/types.h>

#include <string>
#include <string_view>

#include "platform/process_info.h"

namespace echion {

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

/// One line each: there is no process with this number; it is the number of a thread of process
/// `pid` (0: not known); a process has no memory.
std::string explain_absence(pid_t pid);
std::string explain_thread_id(pid_t tid, pid_t pid);
std::string explain_no_memory(const ProcessInfo& process);

/// What a program is that is neither a process's nor a file's of this build's width.
constexpr std::string_view kOtherWidthProgram =
    sizeof(void*) == 8 ? "a 32-bit program: use the 32-bit (i686) build of echion"
                       : "a 64-bit program: use the 64-bit (amd64) build of echion";

/// "process 123 (name)", by its name now, or by that when it was looked at.
std::string describe_process(pid_t pid);
std::string describe_process(const ProcessInfo& process);

}  // namespace echion
