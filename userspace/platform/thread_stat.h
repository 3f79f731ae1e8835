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

/// The time that a thread has spent on CPUs, in nanoseconds (/proc/PID/task/TID/schedstat). The
/// kernel adds to it when the thread leaves a CPU, at each tick of the scheduler's clock, and not
/// when it is read. So it stands still exactly as long as the thread does not run, but for a thread
/// that is on a CPU right now. kNotReady when the kernel does not count (CONFIG_SCHED_INFO) or the
/// thread has not run yet. Any user may read it.
Result<std::int64_t> read_thread_run_ns(pid_t pid, pid_t tid);

}  // namespace echion
