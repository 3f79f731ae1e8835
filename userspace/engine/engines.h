#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <tl/expected.hpp>

#include "engine/host_engine.h"

namespace echion::engine {

/// One row for each engine that there is.
struct EngineKind {
    std::string_view name;          ///< for --engine
    std::string_view profile_name;  ///< in profiles
    std::string_view long_name;     ///< for messages
    bool cpu_time_only;
    /// Of wall time: below it the engine costs more than the sampler's own clock.
    std::uint64_t least_wall_interval_ns;
    /// Opens the command-line program's half. Any thread. Null in own_clock() alone: an engine
    /// whose ticks the agent makes by itself has a HostEngine, too, whose agent_flags() offer it.
    tl::expected<std::unique_ptr<HostEngine>, Unavailable> (*open)();
};

/// The best first; the last is own_clock().
std::span<const EngineKind> engines();

/// The sampler's own clock, which can always be had.
const EngineKind& own_clock();

}  // namespace echion::engine
