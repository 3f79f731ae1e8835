#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdint>

#include "base/clock.h"

namespace echion::agent {

using FutexWord = std::atomic<std::uint32_t>;
static_assert(sizeof(FutexWord) == sizeof(std::uint32_t) && FutexWord::is_always_lock_free);

constexpr std::int64_t kLookNs = 1'000'000;  // where the kernel does not let a thread wait

/// Waits while `word` is `value`, at most `timeout_ns`; for ever when that is negative. False at
/// the time's end. Threads of one process; no lock, so that a fork leaves none taken.
inline bool wait_while(FutexWord& word, std::uint32_t value, std::int64_t timeout_ns = -1) {
    const std::int64_t end_ns = monotonic_ns() + timeout_ns;
    while (word.load() == value) {
        const std::int64_t left_ns = timeout_ns < 0 ? 0 : end_ns - monotonic_ns();
        if (timeout_ns >= 0 && left_ns <= 0) {
            return false;
        }
        const timespec timeout = make_timespec(left_ns);
        const long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value,
                                    timeout_ns < 0 ? nullptr : &timeout, nullptr, 0);
        if (result != 0 && errno != EAGAIN && errno != EINTR && errno != ETIMEDOUT) {
            // Refused (seccomp): looks now and then instead.
            const timespec moment = make_timespec(kLookNs);
            clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, nullptr);
        }
    }
    return true;
}

/// Wakes all who wait for `word`. It need not be there any more.
inline void wake_all(FutexWord& word) {
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

/// Sets `word` and wakes all who wait for it.
inline void set_and_wake(FutexWord& word, std::uint32_t value) {
    word.store(value);
    wake_all(word);
}

}  // namespace echion::agent
