#include "cli/perf_ticks.h"

#include <errno.h>
#include <signal.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>

#include "platform/linux/perf_event.h"

namespace echion::cli {
namespace {

// The number that a thread has in its own PID namespace, the innermost; 0 when it has gone.
std::uint32_t read_own_number(pid_t pid, pid_t tid) {
    std::ifstream status("/proc/" + std::to_string(pid) + "/task/" + std::to_string(tid) +
                         "/status");
    std::string word;
    std::uint32_t number = 0;
    while (status >> word) {
        if (word == "NSpid:") {
            std::string rest;
            std::getline(status, rest);
            const std::size_t last = rest.find_last_of(" \t");
            number = static_cast<std::uint32_t>(
                std::strtoul(rest.c_str() + (last == rest.npos ? 0 : last), nullptr, 10));
            break;
        }
    }
    return number;
}

// The thread of `pid` that calls itself `target_tid`; 0: none.
pid_t find_thread(pid_t pid, std::uint32_t target_tid) {
    const auto same = static_cast<pid_t>(target_tid);
    if (same > 0 && read_own_number(pid, same) == target_tid) {
        return same;
    }
    for (const pid_t tid : list_threads(pid)) {
        if (read_own_number(pid, tid) == target_tid) {
            return tid;
        }
    }
    return 0;
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
    const auto event =
        perf::open_task_timer(pid, perf::Inherit::kThreads, {.user_only = user_only_});
    if (event) {
        return std::nullopt;
    }
    return explain_perf("open a perf event of process " + std::to_string(pid),
                        event.error().system_errno, read_privileges());
}

Result<PerfTicks::Report> PerfTicks::start(pid_t pid, std::uint32_t sampler_tid, int signal,
                                           std::int64_t interval_ns) {
    TickRequest ticks;
    ticks.sampler_tid = find_thread(pid, sampler_tid);
    if (ticks.sampler_tid == 0 || signal < SIGRTMIN || signal > SIGRTMAX) {
        return fail(ErrorKind::kProtocol, "start the ticks: the agent's request is not valid");
    }
    if (!may_signal(pid)) {
        return fail(ErrorKind::kRefused, "start the ticks: the target is another user's", EPERM);
    }
    ticks.pid = pid;
    ticks.signal = signal;
    ticks.interval_ns = perf::clamp_interval(interval_ns, perf::read_limits());
    ticks.wall = false;
    ticks.user_only = user_only_;
    stop(pid);
    auto timers = TickTimers::start(ticks, nullptr);
    if (!timers) {
        return tl::unexpected(timers.error());
    }
    const Report report{ticks.interval_ns, timers->threads_without_event()};
    timers_.emplace(pid, std::move(*timers));
    return report;
}

}  // namespace echion::cli
