#include "agent/python_start.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/clock.h"
#include "platform/process_modules.h"
#include "platform/process_reader.h"
#include "platform/thread_clock.h"

namespace echion::agent {
namespace {

using sampling::PythonStart;

// Waits for Python's start: a share of the time that it has taken so far, as what happens meanwhile
// is missing from the profile. To look for Python takes some hundred microseconds; to look whether
// one that was found has started, some.
constexpr std::int64_t kMinSearchWaitNs = 500'000;
constexpr std::int64_t kMaxSearchWaitNs = 20'000'000;
constexpr std::int64_t kSearchWaitShare = 8;
constexpr std::int64_t kSearchAgainShare = 2;
constexpr std::int64_t kMinLookWaitNs = 200'000;
constexpr std::int64_t kMaxLookWaitNs = 5'000'000;
constexpr std::int64_t kLookWaitShare = 64;

/// With the version, where it is one that there is no layout for.
Error name_version(const Error& error, const cpython::LocatedRuntime& located) {
    const cpython::Version& version = located.view.version;
    if (error.kind != ErrorKind::kUnsupportedVersion || version.major == 0) {
        return error;
    }
    static char text[96];  // of the one sampler that there is
    std::snprintf(text, sizeof(text), "it runs CPython %u.%u.%u; supported are %s", version.major,
                  version.minor, version.micro, cpython::kSupportedVersions);
    return {error.kind, error.system_errno, text};
}

PythonStart start_after_now() {
    return {monotonic_ns(), read_clock_ns(thread_cpu_clock(static_cast<std::uint32_t>(getpid())))};
}

/// Waits until a runtime that was found has started, at most `wait_ns`; true when told to stop.
/// `start`: as wait_for_python().
bool wait_for_start(Channel& channel, MemoryReader& reader, const cpython::LocatedRuntime* found,
                    std::int64_t begin_ns, std::int64_t wait_ns, PythonStart& start) {
    if (found == nullptr) {
        return channel.wait_for_stop(wait_ns);
    }
    const std::int64_t end_ns = monotonic_ns() + wait_ns;
    for (;;) {
        const PythonStart look = start_after_now();
        if (cpython::check_ready(reader, found->view)) {
            break;
        }
        start = look;
        if (look.after_ns >= end_ns) {
            break;
        }
        if (channel.wait_for_stop(std::clamp((look.after_ns - begin_ns) / kLookWaitShare,
                                             kMinLookWaitNs, kMaxLookWaitNs))) {
            return true;
        }
    }
    return false;
}

Result<cpython::LocatedRuntime> told_to_stop() {
    return fail(ErrorKind::kNotReady, "told to stop before Python had started");
}

}  // namespace

Result<cpython::LocatedRuntime> find_python() {
    ProcessReader reader;
    cpython::LocatedRuntime located;
    if (auto status = reader.open_own(); !status) {
        return tl::unexpected(status.error());
    }
    if (auto status = cpython::locate_runtime(reader, kOwnProcess, located); !status) {
        return tl::unexpected(name_version(status.error(), located));
    }
    if (!located.is_ready) {
        return fail(ErrorKind::kNotReady, "Python has not started yet");
    }
    return located;
}

Result<cpython::LocatedRuntime> wait_for_found(Channel& channel,
                                               const cpython::LocatedRuntime& found,
                                               PythonStart& start) {
    ProcessReader reader;
    if (auto status = reader.open_own(); !status) {
        return tl::unexpected(status.error());
    }
    const std::int64_t begin_ns = monotonic_ns();
    while (!cpython::check_ready(reader, found.view)) {
        if (wait_for_start(channel, reader, &found, begin_ns, kMaxLookWaitNs, start) ||
            channel.is_lost()) {
            return told_to_stop();
        }
    }
    return found;
}

Result<cpython::LocatedRuntime> wait_for_python(Channel& channel, ProgramThreads& program,
                                                PythonStart& start) {
    ProcessReader reader;
    if (auto status = reader.open_own(); !status) {
        return tl::unexpected(status.error());
    }
    const std::int64_t begin_ns = monotonic_ns();
    for (;;) {
        cpython::LocatedRuntime located;
        const PythonStart look = start_after_now();
        const Status status = cpython::locate_runtime(reader, kOwnProcess, located);
        if (status && located.is_ready) {
            return located;
        }
        start = look;
        if (!status && status.error().kind != ErrorKind::kNotReady) {
            return tl::unexpected(name_version(status.error(), located));
        }
        if (channel.has_own_table() && program.is_over()) {
            return fail(ErrorKind::kNotReady, "the program ended before Python had started");
        }
        // Others may be loaded meanwhile, so it is looked for all again from time to time.
        const std::int64_t share = status ? kSearchAgainShare : kSearchWaitShare;
        const std::int64_t wait_ns =
            std::clamp((monotonic_ns() - begin_ns) / share, kMinSearchWaitNs, kMaxSearchWaitNs);
        if (wait_for_start(channel, reader, status ? &located : nullptr, begin_ns, wait_ns,
                           start) ||
            channel.is_lost()) {
            return told_to_stop();
        }
    }
}

}  // namespace echion::agent
