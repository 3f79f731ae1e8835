#pragma once

#include "cli/kernel_side.h"
#include "cli/session.h"

namespace echion::cli {

/// For -v, when an agent has begun to sample: what it works with, and what it lacks.
void tell_about_agent(const Session& session, const KernelSide& kernel);

}  // namespace echion::cli
