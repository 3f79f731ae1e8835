#include "engine/host_engine.h"

#include <array>

#include "engine/bpf/bpf_engine.h"
#include "engine/perf/perf_engine.h"

namespace echion::engine {
namespace {

// In wall time a busy thread is interrupted twice an interval, by its own tick and by the
// sampler's, and each interrupt takes some microseconds: `scripts/bench slowdown` shows both
// engines.
constexpr std::uint64_t kLeastWallIntervalNs = 500'000;

constexpr std::array<HostEngineKind, 2> kHostEngines = {{
    {"bpf", "BPF", false, kLeastWallIntervalNs, open_bpf_engine},
    {"perf", "perf events", true, 0, open_perf_engine},
}};

}  // namespace

std::span<const HostEngineKind> host_engines() { return kHostEngines; }

std::vector<model::CountedCpu> HostEngine::count_cpu(pid_t, bool) { return {}; }

std::vector<std::pair<std::string, std::uint64_t>> HostEngine::figures() const { return {}; }

}  // namespace echion::engine
