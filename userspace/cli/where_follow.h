#pragma once

#include "cli/options.h"
#include "cli/where_target.h"
#include "report/process_report.h"
#include "report/text_report.h"

namespace echion::cli {

/// Follows a process for the exposure that was asked for: with a view that refreshes in place when
/// standard error is a terminal, and a summary at the end in any case. SIGINT, SIGTERM and SIGHUP
/// end it early, with the summary. Returns the program's exit status.
int follow_where(const Options& options, WhereTarget& target, report::ProcessReport& report);

/// Colours for text to a file descriptor, where it is a terminal that wants them
/// (https://no-color.org).
report::Palette choose_palette(int fd);

/// Writes all of the text; false when the other end takes no more.
bool write_text(int fd, std::string_view text);

}  // namespace echion::cli
