#pragma once

#include <sys/types.h>

#include "base/error.h"
#include "base/unique_fd.h"

namespace echion::cli {

/// Tells a signal to the whole process group from one to this process alone, which the signal
/// itself does not say: a second process in the group, which does nothing but note what it gets.
///
/// It has all signals blocked, no descriptors but one, neither this program's name nor its
/// arguments (who signals by these does not mean it), and ends when this object or this process
/// does.
class GroupWitness {
  public:
    /// Starts the witness. To be called while the process has one thread. kSystem with errno.
    static Result<GroupWitness> start();

    GroupWitness(GroupWitness&&) noexcept;
    GroupWitness& operator=(GroupWitness&&) = delete;
    ~GroupWitness();

    /// Whether the witness got this signal, too, within the last seconds. Each is told once.
    /// False when the witness cannot be asked.
    bool has_seen(int signal);

  private:
    GroupWitness(pid_t pid, UniqueFd socket);

    pid_t pid_;
    UniqueFd socket_;
};

}  // namespace echion::cli
