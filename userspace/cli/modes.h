#pragma once

#include "cli/options.h"

/// What Echion can be asked to do. Each runs to its end and returns the program's exit status.
namespace echion::cli {

/// Runs a command and samples the Python in it.
int run_launch(const Options& options);

/// Shows where the threads of a process are: on standard error, or as JSON on standard output.
/// Nothing in the process is stopped or changed. With an exposure, follows it for so long.
int run_where(const Options& options);

/// Brings the agent into a running process and samples it until its end, the exposure time's end,
/// or a signal to this program.
int run_attach(const Options& options);

}  // namespace echion::cli
