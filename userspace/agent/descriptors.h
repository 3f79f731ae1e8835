#pragma once

#include "base/unique_fd.h"

/// Whose descriptors the agent's are.
///
/// The sampler thread has a descriptor table of its own (leave_descriptor_table()), where the
/// system lets it: nothing that it opens is seen by the program or takes a number that the program
/// expects, the program cannot close what is the agent's, and the agent cannot close what is the
/// program's. Where it does not (before Linux 5.9 or by a seccomp filter, and not at a launch
/// either), it shares the program's: its channel then has a high number, and is looked at before
/// each use whether it still is that socket. In an attachment it is born in the table of the thread
/// that makes it, if that one has its own (attach_part.h).
namespace echion::agent {

/// The same descriptor under a number that is in nobody's way: no standard stream's and, in the
/// program's own table, a high one, as far as RLIMIT_NOFILE goes. The former number is closed: it
/// has to be one that the caller was given just now.
UniqueFd move_up(UniqueFd fd, bool has_own_table);

}  // namespace echion::agent
