#include "agent/sampler.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "agent/stack_sampler.h"
#include "base/clock.h"
#include "cpython/locate.h"
#include "platform/process_modules.h"
#include "platform/process_reader.h"
#include "stream/ring.h"

namespace echion::agent {
namespace {

using stream::Counter;

// How often the sampler looks whether it has been told to stop, and reads its own CPU clock.
constexpr std::int64_t kHousekeepingNs = 20'000'000;
// Waits for Python's start: short at first, as most programs start it at once.
constexpr std::int64_t kMinReadyWaitNs = 500'000;
constexpr std::int64_t kMaxReadyWaitNs = 20'000'000;

/// Asks the scheduler for the shortest time slice. The sampler shares a CPU with the busy thread
/// that it follows; since Linux 6.12 a thread that wakes with a shorter slice than the running
/// one's takes over at once, instead of when that one has had its share (kernel/sched/fair.c,
/// PREEMPT_SHORT). Needs no privilege. Older kernels ignore the request or refuse it.
void request_short_slice() {
    constexpr std::uint64_t kShortestSliceNs = 100'000;
    struct {
        std::uint32_t size;
        std::uint32_t policy;
        std::uint64_t flags;
        std::int32_t nice;
        std::uint32_t priority;
        std::uint64_t runtime_ns;
        std::uint64_t deadline_ns;
        std::uint64_t period_ns;
    } attributes{};  // struct sched_attr, version 0 (sched_setattr(2))
    attributes.size = sizeof(attributes);
    if (syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0U) == 0 &&
        attributes.policy == SCHED_OTHER) {
        attributes.runtime_ns = kShortestSliceNs;
        (void)syscall(SYS_sched_setattr, 0, &attributes, 0U);
    }
}

/// Absolute deadlines, one interval apart; those that have passed are skipped and counted.
class TickTimer {
  public:
    TickTimer(std::int64_t interval_ns, std::int64_t now_ns)
        : interval_ns_(interval_ns), deadline_ns_(now_ns) {
        // Without this the kernel may let a wake-up slip by 50 us to join it with others.
        prctl(PR_SET_TIMERSLACK, 1UL);
        request_short_slice();
    }

    /// Waits for the next deadline. False when the channel said stop instead.
    bool wait(Channel& channel) {
        deadline_ns_ += interval_ns_;
        std::int64_t now_ns = monotonic_ns();
        if (now_ns >= deadline_ns_) {
            const std::int64_t passed = (now_ns - deadline_ns_) / interval_ns_;
            missed_ += static_cast<std::uint64_t>(passed);
            deadline_ns_ += passed * interval_ns_;
            late_ += now_ns - deadline_ns_ > interval_ns_ / 2;
            return true;
        }
        while (deadline_ns_ - now_ns > kHousekeepingNs) {
            ++system_calls_;
            if (channel.wait_for_stop(deadline_ns_ - now_ns)) {
                return false;
            }
            now_ns = monotonic_ns();
        }
        const timespec deadline = make_timespec(deadline_ns_);
        ++system_calls_;
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, nullptr) != 0) {
        }
        late_ += monotonic_ns() - deadline_ns_ > interval_ns_ / 2;
        return true;
    }

    [[nodiscard]] std::uint64_t late() const { return late_; }
    [[nodiscard]] std::uint64_t missed() const { return missed_; }
    [[nodiscard]] std::uint64_t system_calls() const { return system_calls_; }

  private:
    std::int64_t interval_ns_;
    std::int64_t deadline_ns_;
    std::uint64_t late_ = 0;
    std::uint64_t missed_ = 0;
    std::uint64_t system_calls_ = 0;
};

Result<cpython::LocatedRuntime> wait_for_python(Channel& channel) {
    ProcessReader reader;
    std::int64_t wait_ns = kMinReadyWaitNs;
    const int probe = 0;
    if (auto status = reader.open(getpid(), Address(reinterpret_cast<std::uintptr_t>(&probe)));
        !status) {
        return tl::unexpected(status.error());
    }
    for (;;) {
        cpython::LocatedRuntime located;
        const Status status = cpython::locate_runtime(reader, kOwnProcess, located);
        if (status && located.is_ready) {
            return located;
        }
        if (!status && status.error().kind != ErrorKind::kNotReady) {
            return tl::unexpected(status.error());
        }
        if (channel.wait_for_stop(wait_ns)) {
            return fail(ErrorKind::kProtocol, "told to stop before Python had started");
        }
        wait_ns = std::min(2 * wait_ns, kMaxReadyWaitNs);
    }
}

/// The figures that only the thread's own loop knows.
void publish_timing(stream::RingProducer& ring, const TickTimer& timer) {
    ring.set(Counter::kLateTicks, timer.late());
    ring.set(Counter::kMissedTicks, timer.missed());
    ring.set(Counter::kWaits, timer.system_calls());
    ring.set(Counter::kSamplerCpuNs,
             static_cast<std::uint64_t>(read_clock_ns(CLOCK_THREAD_CPUTIME_ID)));
}

Status sample_until_stopped(Channel& channel, const GuestFacts& facts) {
    const auto configure = channel.receive_configure();
    if (!configure) {
        return tl::unexpected(configure.error());
    }
    if (configure->mode == control::Mode::kMemory || configure->interval_ns == 0 ||
        configure->max_frames == 0 || configure->max_frames >= stream::kMaxFrames) {
        return fail(ErrorKind::kProtocol, "a configuration that this agent does not know");
    }
    auto mapping = stream::RingMapping::open(channel.find_fd(*configure, control::FdKind::kRing));
    if (!mapping) {
        return tl::unexpected(mapping.error());
    }
    stream::RingProducer ring(std::move(*mapping));

    auto located = wait_for_python(channel);
    if (!located) {
        return tl::unexpected(located.error());
    }
    SamplerOptions options;
    options.interval_ns = configure->interval_ns;
    options.max_frames = configure->max_frames;
    options.cpu_mode = configure->mode == control::Mode::kCpu;
    // Flat out, following would leave the thread that is followed no time to run.
    options.follow = (configure->flags & control::kNoFollow) == 0 &&
                     configure->interval_ns >= kLeastFollowIntervalNs;
    const auto interval_ns = static_cast<std::int64_t>(configure->interval_ns);
    TickTimer timer(interval_ns, monotonic_ns());
    StackSampler sampler;
    if (auto status = sampler.start(located->view, options, facts, ring, monotonic_ns()); !status) {
        return status;
    }
    sampler.tick(monotonic_ns());
    const cpython::Version version = located->view.version;
    channel.send_started(
        static_cast<std::uint32_t>(version.major << 16 | version.minor << 8 | version.micro),
        static_cast<std::uint32_t>(syscall(SYS_gettid)));

    std::int64_t housekeeping_ns = monotonic_ns();
    while (timer.wait(channel)) {
        const std::int64_t now_ns = monotonic_ns();
        sampler.tick(now_ns);
        if (now_ns - housekeeping_ns >= kHousekeepingNs) {
            housekeeping_ns = now_ns;
            publish_timing(ring, timer);
            if (channel.wait_for_stop(0)) {
                break;
            }
        }
    }
    sampler.tick(monotonic_ns());
    sampler.stop();
    publish_timing(ring, timer);
    return {};
}

}  // namespace

void run_sampler(Channel& channel, const GuestFacts& facts) {
    if (!channel.send_hello()) {
        return;
    }
    if (const Status status = sample_until_stopped(channel, facts); !status) {
        channel.send_failed(status.error());
        return;
    }
    channel.send_stopped();
}

}  // namespace echion::agent
