#include "platform/own_thread.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace echion {

std::uint32_t own_thread_id() { return static_cast<std::uint32_t>(syscall(SYS_gettid)); }

void name_own_thread(const char* name) { prctl(PR_SET_NAME, name); }

void signal_thread(pid_t pid, pid_t tid, int signal) { syscall(SYS_tgkill, pid, tid, signal); }

void end_with_parent() { prctl(PR_SET_PDEATHSIG, SIGKILL); }

void end_own_thread(int status) { syscall(SYS_exit, status); }

}  // namespace echion
