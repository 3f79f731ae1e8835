#pragma once

#include "cli/engine_choice.h"
#include "cli/session.h"

namespace echion::cli {

/// For -v, when an agent has begun to sample: what it works with, and what it lacks.
void tell_about_agent(const Session& session, const EngineChoice& engine);

}  // namespace echion::cli
