#pragma once

#include <string>

#include "base/error.h"
#include "cli/options.h"

namespace echion::cli {

/// What a run still needs its rights for when it has been set up.
struct NeededRights {
    bool bpf = false;              ///< targets that come later, by BPF (it needs perf, too)
    bool perf_events = false;      ///< of threads and processes that come later, of other CPUs
    bool other_processes = false;  ///< what /proc shows of other users' processes; their memory
    bool signals = false;          ///< to a command that has changed its user
    std::string output;            ///< path of a file that may have to be removed; empty: none
};

/// Gives up every capability that is not needed for these, from the calling thread's effective,
/// permitted, inheritable, ambient and bounding sets, and the ability to gain any by exec
/// (no_new_privs). Rights belong to a thread: to be called when the process has no other, and after
/// the command has been executed, which keeps what it was given. What was opened before (programs,
/// events, files, descriptors of processes) stays usable.
///
/// Returns what is kept, in words. kSystem when the kernel refuses, and kInvalid when other threads
/// of the process keep theirs: nothing has changed then but for the bounding set.
Result<std::string> keep_rights(const NeededRights& needed);

/// The same at the right moment of a run; tells what is kept if the options say -v, and of a
/// failure always: sampling goes on.
void keep_rights_only(const Options& options, const NeededRights& needed);

}  // namespace echion::cli
