#include "platform/wake_word.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <climits>

#include "base/clock.h"

namespace echion {
namespace {

constexpr std::int64_t kLookNs = 1'000'000;  // where the kernel does not let a thread wait

}  // namespace

bool wait_while(WakeWord& word, std::uint32_t value, std::int64_t timeout_ns) {
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

void wake_all(WakeWord& word) {
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

void set_and_wake(WakeWord& word, std::uint32_t value) {
    word.store(value);
    wake_all(word);
}

}  // namespace echion
