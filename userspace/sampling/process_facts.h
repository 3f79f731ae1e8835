#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "control/control.h"

namespace echion::sampling {

/// What the sampler has to know of the process that it runs in, and cannot ask for by itself.
struct ProcessFacts {
    bool is_launch = false;  ///< the agent was there from the program's first moment
    bool is_late = false;    ///< preloaded, but Python came when the program was running
    /// CPU time of the thread that the agent began on. At a launch that is what the process used
    /// before this program began: an exec keeps the clock.
    std::int64_t used_cpu_ns = 0;
    std::intptr_t thread_area_offset = 0;  ///< SameCpu::find_thread_area_offset()
    /// The interpreter's static data from its runtime on, which is never unmapped: bytes.
    std::size_t static_bytes = 0;
    std::uint32_t sampler_tid = 0;    ///< the thread that samples
    std::uint32_t io_tid = 0;         ///< the agent's other thread…
    std::uintptr_t io_thread_id = 0;  ///< …and its pthread_t; 0: there is none
    /// Threads that brought the agent in, and have ended.
    std::array<std::uint32_t, control::kHelperThreads> helper_tids{};
    /// How often Python's start has been noticed: never in an attachment. Null: nobody notices.
    const std::atomic<std::uint32_t>* python_starts = nullptr;
};

}  // namespace echion::sampling
