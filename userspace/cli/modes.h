#pragma once

#include "cli/options.h"

/// What Echion can be asked to do. Each runs to its end and returns the program's exit status.
namespace echion::cli {

/// Runs a command and samples the Python in it.
int run_launch(const Options& options);

}  // namespace echion::cli
