#pragma once

#include <sys/types.h>
#include <time.h>

#include <cstdint>

namespace echion {

/// The CPU clock of another thread of this process (Linux, include/linux/posix-timers_types.h:
/// CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED). The kernel brings it up to date when it is read. It
/// refuses that of a thread of another process.
inline clockid_t thread_cpu_clock(std::uint32_t native_id) {
    return static_cast<clockid_t>((~native_id << 3) | 6U);
}

/// That of all threads of a process, which may be another one.
inline clockid_t process_cpu_clock(pid_t pid) {
    return static_cast<clockid_t>((~static_cast<std::uint32_t>(pid) << 3) | 2U);
}

}  // namespace echion
