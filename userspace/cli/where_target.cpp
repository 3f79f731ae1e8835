#include "cli/where_target.h"

#include "cpython/layout.h"
#include "inject/refusal.h"
#include "platform/process_modules.h"

namespace echion::cli {
namespace {

constexpr std::string_view kSupported = "3.8 to 3.13";

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

}  // namespace

tl::expected<std::unique_ptr<WhereTarget>, std::string> WhereTarget::open(pid_t pid) {
    const std::string number = std::to_string(pid);
    const auto info = read_process_info(pid);
    if (!info) {
        return tl::unexpected("there is no process " + number +
                              " (in a container, take the id that it has there)");
    }
    const std::string name = "process " + number + " (" + info->name + ")";
    auto target = std::make_unique<WhereTarget>();
    target->pid_ = pid;
    target->info_ = *info;
    target->memory_tid_ = find_memory_tid(pid, *info);
    if (target->memory_tid_ == 0) {
        return tl::unexpected(name + (info->state == 'Z'
                                          ? " has ended: its parent has not noticed"
                                          : " is a thread of the kernel, not Python"));
    }
    if (read_program_class(target->memory_tid_) == ProgramClass::kOtherWidth) {
        return tl::unexpected(
            name + (sizeof(void*) == 8
                        ? " is a 32-bit program: use the 32-bit (i686) build of echion"
                        : " is a 64-bit program: use the 64-bit (amd64) build of echion"));
    }
    const auto probe = find_probe(target->memory_tid_);
    if (!probe) {
        return tl::unexpected(target->explain(probe.error()));
    }
    if (auto status = target->reader_.open(target->memory_tid_, *probe); !status) {
        return tl::unexpected(target->explain(status.error()));
    }
    if (auto status =
            cpython::locate_runtime(target->reader_, target->memory_tid_, target->located_);
        !status) {
        return tl::unexpected(target->explain(status.error()));
    }
    return target;
}

report::ReportHeader WhereTarget::header() const {
    return {pid_, info_.own_pid, info_.name, located_.view.version};
}

bool WhereTarget::is_alive() const {
    const auto info = read_process_info(pid_);
    return info && find_memory_tid(pid_, *info) != 0;
}

std::string WhereTarget::explain(const Error& error) const {
    const std::string name = "process " + std::to_string(pid_) + " (" + info_.name + ")";
    if (!is_alive()) {
        return name + " has ended";
    }
    switch (error.kind) {
        case ErrorKind::kNotPython:
            return name + " does not run CPython (or has only just started: then try again)";
        case ErrorKind::kUnsupportedVersion:
            return name + " runs CPython " +
                   (located_.view.version.major == 0 ? "of an unknown version"
                                                     : to_text(located_.view.version)) +
                   "; supported are " + std::string(kSupported);
        case ErrorKind::kNotReady:
            return name + " has not started Python yet, or is ending it: try again";
        case ErrorKind::kSystem:
        case ErrorKind::kRefused:
            return inject::explain_refusal(pid_, error.system_errno, inject::Access::kRead);
        default:
            return "cannot read " + name + ": " + error.what;
    }
}

}  // namespace echion::cli
