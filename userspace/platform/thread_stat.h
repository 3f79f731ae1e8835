#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string_view>

#include "base/error.h"

namespace echion {

/// What the kernel shows of one thread's scheduling (proc(5), /proc/PID/task/TID/stat).
struct ThreadStat {
    char name[64] = {};  ///< command name; the kernel keeps 15 bytes of it, kernel threads' longer
    /// 'R' running, 'S' sleeping, 'D' uninterruptible, 'T' stopped, 't' traced, 'Z' zombie, 'X'.
    char state = '?';
    std::uint32_t cpu = 0;       ///< that it runs on, or ran on last
    std::int64_t cpu_ticks = 0;  ///< of user and kernel time, in units of sysconf(_SC_CLK_TCK)
};

/// Parses the text of a stat file; kInvalid for anything else. Pure. The name may hold anything,
/// parentheses and spaces too.
Result<ThreadStat> parse_thread_stat(std::string_view text);

/// Reads a thread's stat; `pid` 0 is this process. kSystem with ENOENT or ESRCH when it is gone.
/// Any user may read it. One file opened, nothing allocated.
Result<ThreadStat> read_thread_stat(pid_t pid, pid_t tid);

/// What the kernel's scheduler counts of one thread (/proc/PID/task/TID/schedstat).
///
/// It adds to the time when the thread leaves a CPU and at each tick of its clock, not when it is
/// read; to the slices whenever the thread comes onto a CPU. So both stand still exactly as long as
/// the thread does not run, but for a thread that is on a CPU right now.
struct ThreadRun {
    std::int64_t run_ns = 0;   ///< on CPUs
    std::int64_t wait_ns = 0;  ///< ready to run, waiting for one
    std::int64_t slices = 0;

    bool operator==(const ThreadRun&) const = default;
};

/// Parses the text of a schedstat file. kNotReady when the kernel does not count
/// (CONFIG_SCHED_INFO) or the thread has not run yet; kInvalid for another text. Pure.
Result<ThreadRun> parse_thread_run(std::string_view text);

/// Reads it; `pid` 0 is this process. Any user may. One file opened, nothing allocated.
Result<ThreadRun> read_thread_run(pid_t pid, pid_t tid);

/// The period of the scheduler's clock, 1 to 10 ms: so old `run_ns` of a thread on a CPU can be.
std::int64_t scheduler_tick_ns();

}  // namespace echion
