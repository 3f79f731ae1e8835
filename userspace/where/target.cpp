#include "where/target.h"

#include <time.h>

#include <cerrno>
#include <utility>

#include "base/clock.h"
#include "console/refusal.h"
#include "cpython/layout.h"
#include "cpython/layout_check.h"
#include "cpython/locate.h"
#include "platform/process_modules.h"
#include "platform/program_image.h"
#include "platform/thread_stat.h"

namespace echion::where {
namespace {

std::string to_text(const cpython::Version& version) {
    return std::to_string(version.major) + "." + std::to_string(version.minor) + "." +
           std::to_string(version.micro);
}

/// Any thread of the process that still has memory; 0 when none has.
pid_t find_memory_tid(pid_t pid, const ProcessInfo& process) {
    if (process.has_memory) {
        return pid;
    }
    pid_t found = 0;
    (void)for_each_thread(pid, [&](pid_t tid) {
        const auto thread = read_thread_info(pid, tid);
        found = thread && thread->has_memory ? tid : 0;
        return found == 0;
    });
    return found;
}

/// An address that is mapped: to try whether the memory may be read.
Result<Address> find_probe(pid_t tid) {
    Address probe;
    const Status walked = for_each_module(tid, [&](const MappedRange& range) {
        probe = range.start;
        return false;
    });
    if (!walked) {
        return tl::unexpected(walked.error());
    }
    return probe;
}

// A process that executes a program is looked at again, so long; reading the program's file takes
// the kernel a moment.
constexpr std::int64_t kExecutingNs = 300'000'000;
constexpr std::int64_t kNapNs = 1'000'000;
// Behind an exec a program is not Python before its libraries are loaded: so long it has to be
// something else to be taken for that.
constexpr std::int64_t kStartingNs = 50'000'000;
// For so long a contradiction of the layout may last that is a change under way.
constexpr std::int64_t kDoubtNs = 300'000'000;

/// Whether the process may run another program now than it did, or is in the middle of an exec,
/// where it has no stack yet.
bool may_have_changed(pid_t pid, const Result<ProgramImage>& before) {
    const auto now = look_at_program(pid);
    if (!before || !now) {
        return false;  // it cannot be told
    }
    const auto info = read_process_info(pid);
    const bool is_executing = now->stack() == 0 && !now->is_hidden && info && info->has_memory;
    return *now != *before || is_executing;
}

}  // namespace

tl::expected<std::unique_ptr<Target>, std::string> Target::open(pid_t pid, StallGuard* guard) {
    const std::int64_t deadline_ns = monotonic_ns() + kExecutingNs;
    std::int64_t same_since_ns = monotonic_ns();
    for (;;) {
        const auto before = look_at_program(pid);
        auto target = open_once(pid, guard);
        if (target) {
            return std::move(*target);
        }
        // What was found out may be of one program by half and of the next by half.
        const std::int64_t now_ns = monotonic_ns();
        const bool has_changed = may_have_changed(pid, before);
        same_since_ns = has_changed ? now_ns : same_since_ns;
        const bool is_settled = !target.error().may_pass || now_ns - same_since_ns >= kStartingNs;
        if (!has_changed && is_settled) {
            return tl::unexpected(std::move(target.error().text));
        }
        if (now_ns >= deadline_ns) {
            return tl::unexpected(describe_process(pid) +
                                  " executes another program just now: try again");
        }
        sleep_ns(kNapNs);
    }
}

tl::expected<std::unique_ptr<Target>, Target::Refusal> Target::open_once(pid_t pid,
                                                                         StallGuard* guard) {
    const auto refuse = [](std::string text, bool may_pass = false) {
        return tl::unexpected(Refusal{std::move(text), may_pass});
    };
    const auto info = read_process_info(pid);
    if (!info && info.error().system_errno != ENOENT && info.error().system_errno != ESRCH) {
        return refuse(explain_refusal(pid, info.error().system_errno, Access::kRead));
    }
    if (!info) {
        return refuse(explain_absence(pid));
    }
    if (info->group_pid != 0 && info->group_pid != pid) {
        return refuse(explain_thread_id(pid, info->group_pid));
    }
    auto target = std::make_unique<Target>(guard);
    target->pid_ = pid;
    target->info_ = *info;
    target->memory_tid_ = find_memory_tid(pid, *info);
    if (target->memory_tid_ == 0) {
        return refuse(explain_no_memory(*info));
    }
    if (read_program_class(target->memory_tid_) == ProgramClass::kOtherWidth) {
        return refuse(describe_process(*info) + " is " + std::string(kOtherWidthProgram));
    }
    const auto probe = find_probe(target->memory_tid_);
    if (!probe) {
        return refuse(target->explain(probe.error()));
    }
    {
        const StallGuard::Section section(guard, kStalledReadNs);
        if (auto status = target->reader_.open(target->memory_tid_, *probe); !status) {
            return refuse(target->explain(status.error()));
        }
    }
    target->begin_reading(kLocateLimits);
    if (auto status =
            cpython::locate_runtime(target->reader(), target->memory_tid_, target->located_);
        !status) {
        const ErrorKind kind = status.error().kind;
        return refuse(target->explain(status.error()), kind == ErrorKind::kNotPython ||
                                                           kind == ErrorKind::kUnsupportedVersion ||
                                                           kind == ErrorKind::kNotReady);
    }
    if (auto contradiction = target->find_contradiction(); !contradiction.empty()) {
        return refuse(std::move(contradiction), true);
    }
    return target;
}

/// Why it is not laid out as its version says; empty if that is not shown.
std::string Target::find_contradiction() {
    auto check = cpython::LayoutCheck::make();
    if (!is_ready() || !check) {
        return {};
    }
    begin_reading(kLocateLimits);
    const std::int64_t until_ns = monotonic_ns() + kDoubtNs;
    auto verdict = cpython::LayoutVerdict::kDoubted;
    while (verdict == cpython::LayoutVerdict::kDoubted && monotonic_ns() < until_ns &&
           !budget_.is_over()) {
        verdict = check->check(reader(), view());
    }
    // One that is stopped may stand anywhere: its broken stacks are marked.
    const auto stat = read_thread_stat(pid_, memory_tid_);
    const bool is_stopped = stat && (stat->state == 'T' || stat->state == 't');
    const bool is_refuted = verdict == cpython::LayoutVerdict::kRefuted;
    if (!(is_refuted || verdict == cpython::LayoutVerdict::kDoubted) || is_stopped ||
        budget_.is_over()) {
        return {};
    }
    return "cannot read " + describe_process(info_) + ": its memory is not as CPython " +
           to_text(view().version) + " has it: " + check->contradiction() + "; " +
           (is_refuted ? cpython::kOtherLayout : cpython::kChangingLayout);
}

report::ReportHeader Target::header() const {
    return {pid_, info_.own_pid, info_.name, located_.view.version};
}

bool Target::is_alive() const {
    const auto info = read_process_info(pid_);
    return info && find_memory_tid(pid_, *info) != 0;
}

std::string Target::explain(const Error& error) const {
    const std::string name = describe_process(info_);
    if (!is_alive()) {
        return name + " has ended";
    }
    if (is_ending(pid_)) {
        return name + " is ending";
    }
    if (budget_.is_over()) {
        return "gave up reading " + name +
               ": there is more of it than Echion reads (a damaged or hostile process?)";
    }
    switch (error.kind) {
        case ErrorKind::kNotPython:
            return name + " does not run CPython (or has not loaded it yet: then try again)";
        case ErrorKind::kUnsupportedVersion:
            return name + " runs CPython " +
                   (located_.view.version.major == 0 ? "of an unknown version"
                                                     : to_text(located_.view.version)) +
                   "; supported are " + std::string(cpython::kSupportedVersions);
        case ErrorKind::kNotReady:
            return name +
                   " has not started Python yet, or has ended it: try again if it is starting";
        case ErrorKind::kSystem:
        case ErrorKind::kRefused:
            return explain_refusal(pid_, error.system_errno, Access::kRead);
        default:
            return "cannot read " + name + ": " + error.what;
    }
}

}  // namespace echion::where
