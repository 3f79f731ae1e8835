#pragma once

namespace echion {

/// What one call of the agent's entry, `int echion_attach(int control_fd, int part)`, is to start.
///
/// An attachment either begins by one call in a thread that shares the program's descriptor table;
/// or by two, first one in such a thread, then one in a thread that has a table of its own.
enum AttachPart : int {
    kWholeAgent = 0,   ///< All of it. The descriptor is the agent's from then on.
    kAgentBeside = 1,  ///< What has to share the program's table. No descriptor is handed over.
    kAgentApart = 2,   ///< The rest, in the caller's own table. The descriptor is the agent's.
};

}  // namespace echion
