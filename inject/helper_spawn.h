#pragma once

#include <sys/types.h>

#include "inject/loader.h"
#include "inject/stub.h"
#include "inject/target_code.h"
#include "inject/target_identity.h"
#include "memory/reader.h"

namespace echion::inject {

/// What is needed to start the helper thread in a target.
struct SpawnRequest {
    TargetIdentity& target;
    MemoryReader& reader;  ///< of the unwinder
    const TargetCode& code;
    const StubParameters& parameters;  ///< the region's places in it are filled in
    bool is_glibc;                     ///< the C library whose pthread_create() is known
    int broadcast_signal;              ///< that of parameters.broadcast_signals
    const InjectLimits& limits;
};

/// Borrows a thread of the target at a safe point, maps the region (stub.h), and has the thread
/// make the helper. Returns the address of the region; the thread is as it was and let go, and the
/// helper runs, and no thread of the target is traced any more, whatever state it is in. On failure
/// there is no region and no helper, unless the text says otherwise.
tl::expected<Address, InjectFailure> spawn_helper(const SpawnRequest& request, InjectCost& cost);

/// Threads of a process in the order in which they are best borrowed: those blocked in a call that
/// notices nothing first, those that would notice it last. Zombies are left out, and so are those
/// in an uninterruptible sleep, which would stop only when it ends. kSystem with EMFILE, ENFILE or
/// ENOMEM where this process lacks what it needs to look.
Result<std::vector<pid_t>> rank_threads(pid_t pid);

}  // namespace echion::inject
