#pragma once

#include <sched.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstdint>

namespace echion {

/// struct sched_attr, version 0 (sched_setattr(2)); glibc before 2.41 has none.
struct SchedulerAttributes {
    std::uint32_t size;
    std::uint32_t policy;
    std::uint64_t flags;  ///< kResetOnFork, and others that read_scheduling() does not give
    std::int32_t nice;
    std::uint32_t priority;
    std::uint64_t runtime_ns;  ///< Of ordinary threads since Linux 6.12: the length of their slice.
    std::uint64_t deadline_ns;
    std::uint64_t period_ns;
};

/// What the thread starts does not inherit a priority above the usual one.
constexpr std::uint64_t kResetOnFork = 1;

/// Reads how a thread is scheduled (0: the calling one).
inline bool read_scheduling(pid_t tid, SchedulerAttributes& attributes) {
    return syscall(SYS_sched_getattr, tid, &attributes, sizeof(attributes), 0U) == 0;
}

/// The same of an ordinary thread; false for any other.
inline bool read_ordinary_scheduling(pid_t tid, SchedulerAttributes& attributes) {
    return read_scheduling(tid, attributes) && attributes.policy == SCHED_OTHER;
}

/// Schedules a thread as said, with attributes that have been read. False where that is refused;
/// older kernels than 6.12 may ignore the slice.
inline bool write_scheduling(pid_t tid, SchedulerAttributes attributes) {
    return syscall(SYS_sched_setattr, tid, &attributes, 0U) == 0;
}

}  // namespace echion
