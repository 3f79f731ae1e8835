#pragma once

/// What the agent's IoThread does for a program whose own threads have all ended.
namespace echion::agent {

/// As the last thread there is, this one's return is the program's exit(0): what the program has
/// left to be run then (atexit(3)) may need signals, or have to be ended by one.
void unblock_signals();

/// Ends the process with the status of its first thread, which was the program's last and has not
/// left by pthread_exit(3): no exit(0) is due. `status` as wait(2) tells it. This thread ends
/// behind the first one, and the system tells the status of the one that ends last. Returns where a
/// seccomp filter refuses all that.
void end_process_with(int status);

}  // namespace echion::agent
