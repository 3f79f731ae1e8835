// A thread that wakes up at absolute deadlines and does nothing else: what the sampler costs, and
// how often it ticks, is compared with this, in the same run on the same machine.
//
//     bare_loop INTERVAL_NS SECONDS [busy]
//
// Prints: ticks taken, deadlines there were, CPU nanoseconds of the loop. A deadline that has
// passed when the loop looks at the clock is missed, as in the sampler. With `busy`, a second
// thread spins meanwhile, as a busy target does.

#include <sys/prctl.h>
#include <time.h>

#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "base/clock.h"

namespace {

struct Result {
    std::int64_t ticks = 0;
    std::int64_t deadlines = 0;
    std::int64_t cpu_ns = 0;
};

Result run_loop(std::int64_t interval_ns, std::int64_t length_ns) {
    prctl(PR_SET_TIMERSLACK, 1);
    Result result;
    const std::int64_t cpu_begin = echion::read_clock_ns(CLOCK_THREAD_CPUTIME_ID);
    const std::int64_t begin = echion::monotonic_ns();
    std::int64_t deadline = begin;
    while (deadline < begin + length_ns) {
        const std::int64_t now = echion::monotonic_ns();
        // The next deadline that is still ahead; those in between are missed.
        const std::int64_t steps = now < deadline ? 1 : (now - deadline) / interval_ns + 1;
        deadline += steps * interval_ns;
        result.deadlines += steps;
        const timespec at = echion::make_timespec(deadline);
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) == EINTR) {
        }
        ++result.ticks;
    }
    result.cpu_ns = echion::read_clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu_begin;
    return result;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 3) {
        std::fprintf(stderr, "usage: bare_loop INTERVAL_NS SECONDS [busy]\n");
        return 2;
    }
    const std::int64_t interval_ns = std::strtoll(argv[1], nullptr, 10);
    const double seconds = std::strtod(argv[2], nullptr);
    if (interval_ns <= 0 || seconds <= 0) {
        std::fprintf(stderr, "bare_loop: interval and length must be positive\n");
        return 2;
    }
    std::atomic<bool> done = false;
    std::thread spinner;
    if (argc > 3 && std::strcmp(argv[3], "busy") == 0) {
        spinner = std::thread([&done] {
            while (!done.load(std::memory_order_relaxed)) {
            }
        });
    }
    Result result;
    std::thread loop(
        [&] { result = run_loop(interval_ns, static_cast<std::int64_t>(seconds * 1e9)); });
    loop.join();
    done = true;
    if (spinner.joinable()) {
        spinner.join();
    }
    std::printf("%" PRId64 " %" PRId64 " %" PRId64 "\n", result.ticks, result.deadlines,
                result.cpu_ns);
    return 0;
}
