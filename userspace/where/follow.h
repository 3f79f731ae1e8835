#pragma once

#include <functional>

#include "memory/stall_guard.h"
#include "report/process_report.h"
#include "report/text_report.h"
#include "where/target.h"
#include "where/where.h"

namespace echion::where {

/// Follows a process for the exposure that was asked for: with a view that refreshes in place when
/// standard error is a terminal, and a summary at the end in any case. SIGINT, SIGTERM and SIGHUP
/// end it early, with the summary. Returns the program's exit status. Where the target stalls a
/// read for good, `on_stall`, which the guard's watch calls, writes the summary.
int follow(const Request& request, Target& target, report::ProcessReport& report, StallGuard& guard,
           std::function<void()>& on_stall);

/// Colours for text to a file descriptor, where it is a terminal that wants them
/// (https://no-color.org).
report::Palette choose_palette(int fd);

}  // namespace echion::where
