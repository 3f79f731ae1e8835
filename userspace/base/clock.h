#pragma once

#include <time.h>

#include <cstdint>

namespace echion {

constexpr std::int64_t kNanosPerSecond = 1'000'000'000;

/// "Never yet", as the time of something that comes again and again: longer before any reading of a
/// clock than any period that is waited for (146 years), and a reading less this does not overflow.
/// Not 0, which may be a second ago: a clock can count from the machine's start, or from that of a
/// container with a time namespace.
constexpr std::int64_t kLongAgoNs = -(std::int64_t{1} << 62);

/// Reads a POSIX clock in nanoseconds; 0 when the clock does not exist (a thread's clock after the
/// thread has ended). Signal-safe, any thread.
inline std::int64_t read_clock_ns(clockid_t clock) {
    timespec now{};
    if (clock_gettime(clock, &now) != 0) {
        return 0;
    }
    return static_cast<std::int64_t>(now.tv_sec) * kNanosPerSecond + now.tv_nsec;
}

inline std::int64_t monotonic_ns() { return read_clock_ns(CLOCK_MONOTONIC); }

inline timespec make_timespec(std::int64_t ns) {
    timespec result{};
    result.tv_sec = static_cast<time_t>(ns / kNanosPerSecond);
    result.tv_nsec = static_cast<long>(ns % kNanosPerSecond);
    return result;
}

/// Sleeps for that time, or until a signal comes. Not by nanosleep(2), which the project's own
/// system calls leave out: see docs/agent-calls.md.
inline void sleep_ns(std::int64_t ns) {
    const timespec time = make_timespec(ns);
    clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr);
}

}  // namespace echion
