#pragma once

#include <time.h>

#include <cstdint>

namespace echion {

/// The CPU clock of another thread of this process (Linux, include/linux/posix-timers_types.h:
/// CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED). The kernel brings it up to date when it is read. It
/// refuses that of a thread of another process.
inline clockid_t thread_cpu_clock(std::uint32_t native_id) {
    return static_cast<clockid_t>((~native_id << 3) | 6U);
}

}  // namespace echion
