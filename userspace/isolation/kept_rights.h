#pragma once

#include <span>
#include <string>

#include "base/error.h"
#include "engine/privileges.h"

namespace echion {

/// What a run still needs its rights for when it has been set up.
struct NeededRights {
    std::span<const engine::Capability> engine;  ///< HostEngine::needed_capabilities()
    bool other_processes =
        false;             ///< what the system shows of other users' processes; their memory
    bool signals = false;  ///< to a command that has changed its user
    std::string output;    ///< path of a file that may have to be removed; empty: none
};

/// Gives up every capability that is not needed for these, from the effective, permitted,
/// inheritable, ambient and bounding sets of every thread of this process, and the ability to gain
/// any by exec (no_new_privs). To be called after the command has been executed, which keeps what
/// it was given, and by one thread. What was opened before (programs, events, files, descriptors of
/// processes) stays usable.
///
/// Returns what is kept, in words. kSystem when the kernel refuses, kInvalid when another thread
/// could not be reached within half a second, and keeps its rights.
Result<std::string> keep_rights(const NeededRights& needed);

/// The same at the right moment of a run; tells what is kept if `verbose`, and of a failure always:
/// the run goes on.
void keep_rights_only(const NeededRights& needed, bool verbose);

}  // namespace echion
