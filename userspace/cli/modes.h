#pragma once

#include "cli/options.h"

/// What Echion can be asked to do to sample; -w is where::run(). Each runs to its end and returns
/// the program's exit status.
namespace echion::cli {

/// Runs a command and samples the Python in it.
int run_launch(const Options& options);

/// Brings the agent into a running process and samples it until its end, the exposure time's end,
/// or a signal to this program.
int run_attach(const Options& options);

}  // namespace echion::cli
