// Where mode: echion -w PID.

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <string>

#include "cli/kept_rights.h"
#include "cli/message.h"
#include "cli/modes.h"
#include "cli/where_follow.h"
#include "cli/where_target.h"
#include "platform/same_cpu.h"
#include "report/json_report.h"
#include "report/text_report.h"

namespace echion::cli {
namespace {

int complain(const std::string& text) {
    print_message(text);
    return kExitFailure;
}

}  // namespace

report::Palette choose_palette(int fd) {
    const char* no_color = std::getenv("NO_COLOR");
    const char* terminal = std::getenv("TERM");
    const bool has_colours = isatty(fd) != 0 && (no_color == nullptr || *no_color == '\0') &&
                             (terminal == nullptr || std::string_view(terminal) != "dumb");
    return has_colours ? report::Palette::colours() : report::Palette::none();
}

bool write_text(int fd, std::string_view text) {
    while (!text.empty()) {
        const ssize_t written = ::write(fd, text.data(), text.size());
        if (written < 0 && errno != EINTR) {
            return false;
        }
        text.remove_prefix(static_cast<std::size_t>(std::max<ssize_t>(written, 0)));
    }
    return true;
}

int run_where(const Options& options) {
    auto target = WhereTarget::open(*options.where_pid);
    if (!target) {
        return complain(target.error());
    }
    NeededRights needed;
    needed.other_processes = true;
    keep_rights_only(options, needed);
    report::ProcessCapture::Limits limits;
    limits.max_frames = options.max_frames;
    auto report = report::ProcessReport::make((*target)->view(), limits);
    if (!report) {
        return complain((*target)->explain(report.error()));
    }
    if (options.exposure_ns) {
        return follow_where(options, **target, *report);
    }
    SameCpu same_cpu;
    same_cpu.open(SameCpu::find_rseq_offset());

    // Written when it is complete: a terminal or pipe that is slow must not part the stacks in
    // time.
    std::string text;
    std::array<char, 4096> buffer;
    const auto collect = [&text](std::string_view part) { text += part; };
    report::TextSink sink(buffer, collect);
    report::JsonReport json(sink);
    report::TextReport plain(sink, choose_palette(STDERR_FILENO));
    report::ReportWriter& writer = options.json ? static_cast<report::ReportWriter&>(json) : plain;
    if (auto status = report->write((*target)->reader(), same_cpu, *options.where_pid,
                                    (*target)->header(), writer);
        !status) {
        return complain((*target)->explain(status.error()));
    }
    return write_text(options.json ? STDOUT_FILENO : STDERR_FILENO, text) ? 0 : kExitFailure;
}

}  // namespace echion::cli
