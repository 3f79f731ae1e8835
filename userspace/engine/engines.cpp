#include "engine/engines.h"

#include <array>

#include "engine/bpf/bpf_engine.h"
#include "engine/perf/perf_engine.h"

namespace echion::engine {
namespace {

// In wall time a busy thread is interrupted twice an interval, by its own tick and by the
// sampler's, and each interrupt takes some microseconds: `scripts/bench slowdown` shows both
// engines.
constexpr std::uint64_t kLeastWallIntervalNs = 500'000;

constexpr std::array<EngineKind, 3> kEngines = {{
    {"bpf", "bpf", "BPF", false, kLeastWallIntervalNs, open_bpf_engine},
    {"perf", "perf", "perf events", true, 0, open_perf_engine},
    {"clock", "nanosleep", "the sampler's own clock", false, 0, nullptr},
}};

static_assert(kEngines.back().open == nullptr);

}  // namespace

std::span<const EngineKind> engines() { return kEngines; }

const EngineKind& own_clock() { return kEngines.back(); }

}  // namespace echion::engine
