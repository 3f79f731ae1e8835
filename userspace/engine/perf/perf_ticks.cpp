#include "engine/perf/perf_ticks.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/file_limit.h"
#include "engine/perf/perf_event.h"
#include "platform/process_info.h"

namespace echion::engine {
namespace {

// A thread, held by its folder in /proc: what is opened there is this thread's, or nothing once it
// has ended, whoever has its number then.
struct HeldThread {
    pid_t tid = 0;
    UniqueFd folder;
};

// The number that a thread has in its own PID namespace, the innermost; 0 when it has gone.
std::uint32_t read_own_number(const HeldThread& thread) {
    const UniqueFd file(::openat(thread.folder.get(), "status", O_RDONLY | O_CLOEXEC));
    std::array<char, 4096> text;
    const ssize_t size = file ? ::read(file.get(), text.data(), text.size()) : -1;
    const auto info = parse_process_status(
        {text.data(), size > 0 ? static_cast<std::size_t>(size) : std::size_t{0}});
    return info ? static_cast<std::uint32_t>(info->own_pid) : 0;
}

HeldThread hold_thread(pid_t pid, pid_t tid) {
    const std::string path = "/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid);
    return {tid, UniqueFd(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC))};
}

// The thread of `pid` that calls itself `target_tid`; nothing: none.
std::optional<HeldThread> find_thread(pid_t pid, std::uint32_t target_tid) {
    if (target_tid == 0) {
        return std::nullopt;
    }
    const auto same = static_cast<pid_t>(target_tid);
    if (auto thread = hold_thread(pid, same); read_own_number(thread) == target_tid) {
        return thread;
    }
    std::optional<HeldThread> found;
    (void)for_each_thread(pid, [&](pid_t tid) {
        if (auto thread = hold_thread(pid, tid); read_own_number(thread) == target_tid) {
            found = std::move(thread);
        }
        return !found;
    });
    return found;
}

// Less is asked for than explain_perf() takes into account: nothing but what any user may have.
Unavailable explain(int system_errno) {
    constexpr int kMostParanoid = 2;
    const Privileges privileges = read_privileges();
    Unavailable result =
        explain_perf("open a perf event of an own thread", system_errno, privileges);
    if (system_errno != EACCES && system_errno != EPERM) {
        return result;
    }
    if (privileges.perf_event_paranoid > kMostParanoid) {
        result.why = "kernel.perf_event_paranoid is " +
                     std::to_string(privileges.perf_event_paranoid) + ", which leaves users none";
        result.remedy = "sudo sysctl kernel.perf_event_paranoid=2";
    } else if (privileges.seccomp_mode != 0) {
        result.why = "a seccomp filter forbids perf_event_open(2)";
        result.remedy = "start the container with a seccomp profile that allows it";
    } else {
        result.why = "a security module forbids it";
        result.remedy = "";
    }
    return result;
}

}  // namespace

tl::expected<PerfTicks, Unavailable> PerfTicks::open() {
    raise_file_limit();
    if (perf::open_task_timer(0, perf::Inherit::kThreads, {})) {
        return PerfTicks(false);
    }
    const auto event = perf::open_task_timer(0, perf::Inherit::kThreads, {.user_only = true});
    if (!event) {
        return tl::unexpected(explain(event.error().system_errno));
    }
    return PerfTicks(true);
}

std::optional<Unavailable> PerfTicks::why_not(pid_t pid) const {
    if (!may_signal(pid)) {
        return explain_signal(pid);
    }
    int system_errno = ESRCH;
    const auto look_on = [&](pid_t tid) {
        const auto event =
            perf::open_task_timer(tid, perf::Inherit::kThreads, {.user_only = user_only_});
        system_errno = event ? 0 : event.error().system_errno;
        return system_errno == ESRCH;
    };
    // Of the first thread there is none when it has left and others go on.
    if (look_on(pid)) {
        (void)for_each_thread(pid, look_on);
    }
    if (system_errno == 0) {
        return std::nullopt;
    }
    return explain_perf("open a perf event of process " + std::to_string(pid), system_errno,
                        read_privileges());
}

Result<std::int64_t> PerfTicks::start(pid_t pid, std::uint32_t sampler_tid, int signal,
                                      std::int64_t interval_ns) {
    TickRequest ticks;
    const auto sampler = find_thread(pid, sampler_tid);
    if (!sampler || signal < SIGRTMIN || signal > SIGRTMAX) {
        return fail(ErrorKind::kProtocol, "start the ticks: the agent's request is not valid");
    }
    if (!may_signal(pid)) {
        return fail(ErrorKind::kRefused, "start the ticks: the target is another user's", EPERM);
    }
    ticks.pid = pid;
    ticks.sampler_tid = sampler->tid;
    ticks.signal = signal;
    ticks.interval_ns = perf::clamp_interval(interval_ns, perf::read_limits());
    ticks.wall = false;
    ticks.user_only = user_only_;
    stop(pid);
    auto timers = TickEvents::start(ticks, [] { return std::vector<ThreadOrigin>(); });
    if (!timers) {
        return tl::unexpected(timers.error());
    }
    // The signals go to whoever had the number then: the sampler, if it still lives.
    if (read_own_number(*sampler) != sampler_tid) {
        return fail(ErrorKind::kSystem, "start the ticks: the sampler has ended", ESRCH);
    }
    timers_.emplace(pid, std::move(*timers));
    return ticks.interval_ns;
}

}  // namespace echion::engine
