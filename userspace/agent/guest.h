#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "control/control.h"
#include "memory/address.h"
#include "platform/own_modules.h"
#include "platform/wake_word.h"

namespace echion::agent {

/// Whether another CPython than the one that is sampled has started in this process: the library
/// with that one has been closed, or there are two. A new sampler begins when the other has ended.
enum NextPython : std::uint32_t {
    kNoNextPython,
    kNextPythonWaits,
    kNextPythonComes,  ///< a new sampler is being made for it
};

/// What is known of the process before the sampler exists. What comes from the dynamic loader is
/// asked once, on a thread of the target: the sampler itself never takes the loader's locks, so
/// that a fork cannot leave one of them taken in the child.
struct GuestFacts {
    StaticData static_data;
    bool wants_colours = false;  ///< the environment does not forbid them (NO_COLOR, TERM)
    bool is_launch = false;      ///< the agent was there from the program's first moment
    bool is_late = false;        ///< preloaded, but Python came when the program was running
    /// CLOCK_MONOTONIC of the question. At a launch Python has not started by then.
    std::int64_t asked_ns = 0;
    /// CPU time of the asking thread until now. At a launch that is what the process used before
    /// this program began: an exec keeps the clock.
    std::int64_t used_cpu_ns = 0;
    std::intptr_t thread_area_offset = 0;  ///< SameCpu::find_thread_area_offset()
    std::uint32_t io_tid = 0;              ///< the agent's IoThread; set when that exists
    /// How often Python's start has been noticed (late_python.h): never in an attachment.
    const std::atomic<std::uint32_t>* python_starts = nullptr;
    WakeWord* next_python = nullptr;  ///< NextPython
    /// The threads by which an injection brought the agent in; they end as soon as it runs.
    std::array<std::uint32_t, control::kHelperThreads> helper_tids{};

    /// The static data from `address` to the end of its segment; 0 when it is in none.
    [[nodiscard]] std::size_t static_bytes_from(Address address) const {
        return static_data.bytes_from(address);
    }
};

GuestFacts collect_guest_facts();

}  // namespace echion::agent
