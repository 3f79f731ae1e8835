#pragma once

#include <memory>
#include <tl/expected.hpp>

#include "engine/host_engine.h"

namespace echion::engine {

/// BPF programs that account for the targets' threads and let the ticks of perf events through
/// (BpfSession). Loading takes some 35 ms of CPU time, most of it for the kernel's checking of the
/// programs.
tl::expected<std::unique_ptr<HostEngine>, Unavailable> open_bpf_engine();

}  // namespace echion::engine
