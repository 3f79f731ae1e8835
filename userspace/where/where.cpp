#include "where/where.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

#include "console/exit_status.h"
#include "console/message.h"
#include "isolation/aside.h"
#include "isolation/kept_rights.h"
#include "isolation/stall_watch.h"
#include "platform/same_cpu.h"
#include "report/json_report.h"
#include "report/text_report.h"
#include "where/follow.h"
#include "where/target.h"

namespace echion::where {
namespace {

// The text of a report: 10,000 threads of 100 frames are 80 MB. Looked at before each frame, of
// which none takes more than 48 KiB (two texts of 4 KiB, six bytes for each of them in JSON).
constexpr std::size_t kMaxTextBytes = std::size_t{512} << 20;
// For all that is not a read of memory as well, such as opening files. Longer than every budget.
constexpr std::int64_t kOpeningNs = 2 * (kLocateLimits.time_ns + kSymbolFileLimits.time_ns);
constexpr std::int64_t kReportingNs = 2 * kReportLimits.time_ns;

int complain(const std::string& text) {
    print_message(text);
    return kExitFailure;
}

/// A process that can be looked at, and what reports on it.
struct Subject {
    std::unique_ptr<Target> target;
    report::ProcessReport report;
};

/// Opens the process and keeps only the rights to look at it; or says why it cannot be looked at.
tl::expected<Subject, std::string> open_subject(const Request& request, StallGuard& guard) {
    auto target = [&] {
        const StallGuard::Section section(&guard, kOpeningNs);
        return Target::open(request.pid, &guard);
    }();
    if (!target) {
        return tl::unexpected(target.error());
    }
    NeededRights needed;
    needed.other_processes = true;
    keep_rights_only(needed, request.verbose);
    capture::ProcessCapture::Limits limits;
    limits.tasks = !request.exposure_ns;
    limits.max_frames = request.max_frames;
    auto report = report::ProcessReport::make((*target)->view(), limits);
    if (!report) {
        return tl::unexpected((*target)->explain(report.error()));
    }
    return Subject{std::move(*target), std::move(*report)};
}

int report_once(const Request& request, StallGuard& guard) {
    auto subject = open_subject(request, guard);
    if (!subject) {
        return complain(subject.error());
    }
    const pid_t pid = request.pid;
    Target& target = *subject->target;
    SameCpu same_cpu;
    same_cpu.open(SameCpu::find_thread_area_offset());

    // Written when it is complete: a terminal or pipe that is slow must not part the stacks in
    // time.
    std::string text;
    std::array<char, 4096> buffer;
    const auto collect = [&text](std::string_view part) { text += part; };
    report::TextSink sink(buffer, collect);
    report::JsonReport json(sink);
    report::TextReport plain(sink, choose_palette(STDERR_FILENO));
    report::ReportWriter& writer = request.json ? static_cast<report::ReportWriter&>(json) : plain;
    target.begin_reading(kReportLimits);
    ReadBudget& budget = target.budget();
    const auto may_go_on = [&] { return text.size() < kMaxTextBytes && budget.has_time(); };
    bool is_complete = false;
    {
        const StallGuard::Section section(&guard, kReportingNs);
        if (auto status = subject->report.write(target.reader(), same_cpu, pid, target.header(),
                                                writer, may_go_on);
            !status) {
            return complain(target.explain(status.error()));
        }
        is_complete = text.size() < kMaxTextBytes && !budget.is_over();
    }
    if (!write_text(request.json ? STDOUT_FILENO : STDERR_FILENO, text)) {
        return complain(std::string("the report could not be written: ") + strerror(errno));
    }
    if (subject->report.capture().lacks_counts()) {
        print_message(kLacksCounts);
    }
    return is_complete ? 0
                       : complain("the report is not complete: process " + std::to_string(pid) +
                                  " holds more than Echion reads (a damaged or hostile process?)");
}

}  // namespace

report::Palette choose_palette(int fd) {
    const char* no_color = std::getenv("NO_COLOR");
    const char* terminal = std::getenv("TERM");
    const bool has_colours = isatty(fd) != 0 && (no_color == nullptr || *no_color == '\0') &&
                             (terminal == nullptr || std::string_view(terminal) != "dumb");
    return has_colours ? report::Palette::colours() : report::Palette::none();
}

int run(const Request& request) {
    const pid_t pid = request.pid;
    // A reader that has gone, and a limit on the output's size, show where it is written.
    std::signal(SIGPIPE, SIG_IGN);
    std::signal(SIGXFSZ, SIG_IGN);
    if (!request.exposure_ns) {
        return run_aside(pid, [&](StallGuard& guard) { return report_once(request, guard); });
    }
    std::function<void()> on_stall = [pid] { print_message(explain_stall(pid)); };
    // What it calls is replaced only when the guarded thread is not within a section.
    StallWatch watch([&on_stall] { on_stall(); });
    auto subject = open_subject(request, watch.guard());
    if (!subject) {
        return complain(subject.error());
    }
    return follow(request, *subject->target, subject->report, watch.guard(), on_stall);
}

}  // namespace echion::where
