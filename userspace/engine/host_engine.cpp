#include "engine/host_engine.h"

namespace echion::engine {

std::vector<model::CountedCpu> HostEngine::count_cpu(pid_t, bool) { return {}; }

std::vector<std::pair<std::string, std::uint64_t>> HostEngine::figures() const { return {}; }

}  // namespace echion::engine
