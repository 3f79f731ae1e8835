#pragma once

#include <cstdint>
#include <optional>

#include "agent/channel.h"
#include "cpython/locate.h"

/// The agent's two threads: the sampler, and the IoThread, which makes it and outlives it.
namespace echion::agent {

/// What the agent's threads are made for.
struct StartRequest {
    int control_fd = -1;    ///< of an attachment; the threads' own from then on
    Rendezvous rendezvous;  ///< of a launch
    bool is_late = false;   ///< of a launch: Python came when the program was running already
    /// The sampler is not made by the IoThread, but by a thread that has a descriptor table of its
    /// own already: start_apart() has to follow.
    bool is_apart = false;
    std::uint32_t helper_tid = 0;  ///< of an attachment: the thread that brought the agent in
    std::optional<cpython::LocatedRuntime> found;  ///< if the runtime's place is known
};

/// How long the program waits, at most, until the agent's descriptors are where they stay: at its
/// start, when it has begun nothing yet, and in an attachment on a thread of the agent's.
constexpr std::int64_t kSettlingNs = 1'000'000'000;

/// Makes the agent's threads. 0 or an errno; EBUSY when there are some already.
int start_threads(const StartRequest& request);

/// The sampler for an IoThread that was made for a sampler apart, in the calling thread's own
/// table. 0 or an errno: then the IoThread ends too. The descriptor is the sampler's only with 0.
int start_apart(int control_fd, std::uint32_t helper_tid);

/// Tells the program at the other end why there is no sampler.
void report_failure(const Rendezvous& rendezvous, int error);

}  // namespace echion::agent
