#pragma once

#include <sys/types.h>

#include <memory>

#include "base/error.h"
#include "cli/options.h"
#include "cli/profile.h"

namespace echion::cli {

/// Opens the output that the options name, for a profile that they describe. kRefused when it
/// cannot be written; the user has been told why. `pid_for_name`: what %(pid) stands for.
Result<std::unique_ptr<Profile>> open_profile(const Options& options, pid_t pid_for_name);

}  // namespace echion::cli
