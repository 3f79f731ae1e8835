#pragma once

#include <sys/types.h>

#include <cstdint>

#include "base/error.h"
#include "base/unique_fd.h"

namespace echion {

/// Software clock events of perf, as timers: they tick after so much time and run a BPF program,
/// send a signal, or both. All of them start disabled. None is inherited across exec of this
/// process; the events end when their last descriptor is closed.
namespace perf {

/// Whom a task's event follows.
enum class Inherit : std::uint8_t {
    kNothing,   ///< The one thread.
    kThreads,   ///< And the threads that it starts; on kernels before 5.13 like kChildren.
    kChildren,  ///< And the processes that it forks.
};

struct TimerOptions {
    std::int64_t interval_ns = 1'000'000;
    /// Only ticks in user mode: all that perf_event_paranoid = 2 lets an ordinary user have.
    bool user_only = false;
};

/// The kernel does not go below this for software clocks (kernel/events/core.c,
/// perf_swevent_start_hrtimer).
constexpr std::int64_t kMinIntervalNs = 10'000;

/// What the kernel allows, from /proc/sys/kernel. Absent files count as the kernel's defaults.
struct Limits {
    int paranoid = 2;                             ///< perf_event_paranoid
    std::int64_t max_ticks_per_second = 100'000;  ///< perf_event_max_sample_rate
};

Limits read_limits();

/// The shortest interval at which the kernel does not throttle the event: at least `interval_ns`,
/// kMinIntervalNs, and what the rate limit allows.
std::int64_t clamp_interval(std::int64_t interval_ns, const Limits& limits);

/// An event that ticks after so much time of one CPU, whatever runs there. kSystem with errno:
/// ENODEV when the CPU is offline, EACCES or EPERM without the right.
Result<UniqueFd> open_cpu_timer(int cpu, const TimerOptions& options);

/// An event that ticks in the thread `tid` (as this process sees it; 0: the calling thread) after
/// so much of its CPU time. kSystem with errno: ESRCH when it has ended.
Result<UniqueFd> open_task_timer(pid_t tid, Inherit inherit, const TimerOptions& options);

/// From now on ticks send `signal` to the one thread `tid` (as this process sees it). The signal
/// has to be blocked there: its default action is to end the process.
Status signal_thread(const UniqueFd& event, pid_t tid, int signal);

/// Runs a loaded BPF program of type perf_event on each tick; `program` may be closed afterwards.
Status run_program(const UniqueFd& event, int program_fd);

/// How long the event has run, in ns: it stands still once the event's CPU has been offline, even
/// when that is back. Interrupts the CPU for a moment.
Result<std::uint64_t> read_running_ns(const UniqueFd& event);

Status enable(const UniqueFd& event);
Status disable(const UniqueFd& event);
/// Changes the period; the running one is finished first.
Status set_interval(const UniqueFd& event, std::int64_t interval_ns);

}  // namespace perf
}  // namespace echion
