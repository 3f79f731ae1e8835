#pragma once

#include <memory>
#include <tl/expected.hpp>

#include "engine/host_engine.h"

namespace echion::engine {

/// Perf events alone: ticks of CPU time, for users without the rights that BPF takes (PerfTicks).
tl::expected<std::unique_ptr<HostEngine>, Unavailable> open_perf_engine();

}  // namespace echion::engine
