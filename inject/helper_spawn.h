#pragma once

#include <sys/types.h>

#include "inject/loader.h"
#include "inject/stub.h"
#include "inject/target_code.h"
#include "memory/reader.h"

namespace echion::inject {

/// What is needed to start the helper thread in a target.
struct SpawnRequest {
    pid_t pid;
    MemoryReader& reader;
    const TargetCode& code;
    const StubParameters& parameters;  ///< the region's places in it are filled in
    const InjectLimits& limits;
};

/// Borrows a thread of the target at a safe point, maps the region (stub.h), and has the thread
/// make the helper. Returns the address of the region; the thread is as it was and let go, and the
/// helper runs. On failure there is no region and no helper, unless the text says otherwise.
tl::expected<Address, InjectFailure> spawn_helper(const SpawnRequest& request, InjectCost& cost);

/// Threads of a process in the order in which they are best borrowed: those blocked in a call that
/// notices nothing first, those that cannot be stopped last. Zombies are left out.
std::vector<pid_t> rank_threads(pid_t pid);

}  // namespace echion::inject
