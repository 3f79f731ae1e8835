#pragma once

#include <cstddef>
#include <cstdint>

namespace echion::sampling {

/// Below this interval the sampler does not follow threads to their CPUs: it takes some 10 us a
/// tick, and the thread that it follows would get none of what remains.
constexpr std::uint64_t kLeastFollowIntervalNs = 25'000;

/// Which tasks of event loops are in the profile.
enum class TaskMode {
    kAll,      ///< suspended ones have stacks of their own (wall time)
    kRunning,  ///< those that threads run, in the stacks of these
    kNone,
};

/// What the command-line program asked for.
struct SamplerOptions {
    std::uint64_t interval_ns = 1'000'000;
    std::size_t max_frames = 2048;
    TaskMode tasks = TaskMode::kAll;
    bool cpu_mode = false;  ///< also report the CPU time of each thread
    bool follow = true;     ///< go to the CPU of a thread that may run to read its stack
};

}  // namespace echion::sampling
