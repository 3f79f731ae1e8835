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

}  // namespace echion
