#pragma once

#include <sys/types.h>

#include <cstdint>

namespace echion {

/// The system's number of the calling thread.
std::uint32_t own_thread_id();

/// Gives the calling thread a name that tools show, of at most 15 bytes.
void name_own_thread(const char* name);

/// Sends a signal to one thread of process `pid`; nothing happens if there is none of that number.
/// May be called by a signal handler; may change errno.
void signal_thread(pid_t pid, pid_t tid, int signal);

/// Has the calling process killed when the thread that forked it ends. To be checked for behind it:
/// that may have ended before.
void end_with_parent();

/// Ends the calling thread at once, behind the C library's back. `status` is the process's exit
/// status if this thread is the last one there is. Returns where the system refuses that.
void end_own_thread(int status);

}  // namespace echion
