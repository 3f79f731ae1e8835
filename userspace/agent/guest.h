#pragma once

#include <cstddef>
#include <cstdint>

#include "memory/address.h"
#include "platform/own_modules.h"
#include "platform/wake_word.h"
#include "sampling/process_facts.h"

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
struct GuestFacts : sampling::ProcessFacts {
    StaticData static_data;
    bool wants_colours = false;  ///< the environment does not forbid them (NO_COLOR, TERM)
    /// CLOCK_MONOTONIC of the question. At a launch Python has not started by then.
    std::int64_t asked_ns = 0;
    WakeWord* next_python = nullptr;  ///< NextPython

    /// The static data from `address` to the end of its segment; 0 when it is in none.
    [[nodiscard]] std::size_t static_bytes_from(Address address) const {
        return static_data.bytes_from(address);
    }
};

GuestFacts collect_guest_facts();

}  // namespace echion::agent
