#include "engine/tick_timer.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>

#include "agent/sampler_requests.h"
#include "base/clock.h"
#include "control/control.h"
#include "engine/agent_timer.h"
#include "engine/bpf/bpf_timer.h"
#include "engine/clock/clock_timer.h"
#include "engine/perf/perf_timer.h"
#include "fd_pairs.h"

namespace echion::agent {
namespace {

using engine::BpfTimer;
using engine::ClockTimer;
using engine::PerfTimer;

/// A channel, and the end that the command-line program has.
class TickTimerTest : public testing::Test {
  protected:
    void SetUp() override {
        test::SocketPair pair(SOCK_SEQPACKET);
        channel_.emplace(std::move(pair.first), false);
        requests_.emplace(*channel_, dump_, proof_);
        other_ = std::move(pair.second);
        sigset_t ours;
        sigemptyset(&ours);
        sigaddset(&ours, control::kTickSignal);
        sigaddset(&ours, SIGIO);
        ASSERT_EQ(pthread_sigmask(SIG_BLOCK, &ours, nullptr), 0);
    }
    void TearDown() override {
        // None is left for the next test, also not of a hang-up.
        channel_.reset();
        other_.reset();
        sigset_t ours;
        sigemptyset(&ours);
        sigaddset(&ours, control::kTickSignal);
        sigaddset(&ours, SIGIO);
        const timespec at_once{};
        while (sigtimedwait(&ours, nullptr, &at_once) > 0) {
        }
    }
    void send_stop() const {
        control::Stop stop{};
        stop.header = {control::kMagic, control::kVersion, control::MessageType::kStop,
                       sizeof(stop)};
        ASSERT_EQ(send(other_.get(), &stop, sizeof(stop), 0), ssize_t{sizeof(stop)});
    }
    /// A signal as the kernel sends it for a descriptor.
    static void send_tick(int fd, pid_t tid = gettid()) {
        siginfo_t info{};
        info.si_code = POLL_IN;
        info.si_fd = fd;
        ASSERT_EQ(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, control::kTickSignal, &info), 0);
    }

    std::optional<Channel> channel_;
    StackDump dump_;  // not started: there are none
    LayoutProof proof_;
    std::optional<SamplerRequests> requests_;
    UniqueFd other_;
};

constexpr std::int64_t kInterval = 1'000'000;

TEST_F(TickTimerTest, TheClocksFirstTickIsOneIntervalAfterItsStart) {
    const std::int64_t start = monotonic_ns();
    ClockTimer timer(kInterval, start);
    ASSERT_TRUE(timer.wait(*requests_));
    EXPECT_GE(monotonic_ns(), start + kInterval);
    EXPECT_EQ(timer.counts().missed + timer.counts().late, timer.counts().late);
}

TEST_F(TickTimerTest, CountsTheDeadlinesThatHavePassed) {
    // It was due for the first time 10.75 intervals ago.
    const std::int64_t late = 10 * kNanosPerSecond + kNanosPerSecond * 3 / 4;
    ClockTimer timer(kNanosPerSecond, monotonic_ns() - kNanosPerSecond - late);
    ASSERT_TRUE(timer.wait(*requests_));
    EXPECT_EQ(timer.counts().missed, 10U);
    EXPECT_EQ(timer.counts().late, 1U);
}

TEST_F(TickTimerTest, ATickThatIsALittleLateIsNeitherMissedNorLate) {
    ClockTimer timer(1000 * kNanosPerSecond, monotonic_ns() - 1001 * kNanosPerSecond);
    ASSERT_TRUE(timer.wait(*requests_));
    EXPECT_EQ(timer.counts().missed, 0U);
    EXPECT_EQ(timer.counts().late, 0U);
}

TEST_F(TickTimerTest, AClockThatIsAlwaysLateStillHearsTheStop) {
    ClockTimer timer(1, monotonic_ns());
    send_stop();
    while (timer.wait(*requests_)) {
    }
    EXPECT_GT(timer.counts().missed, 0U);
}

TEST_F(TickTimerTest, ALongIntervalEndsWithTheStop) {
    ClockTimer timer(3600 * kNanosPerSecond, monotonic_ns());
    send_stop();
    EXPECT_FALSE(timer.wait(*requests_));
}

TEST_F(TickTimerTest, AHangUpIsAStop) {
    ClockTimer timer(3600 * kNanosPerSecond, monotonic_ns());
    other_.reset();
    EXPECT_FALSE(timer.wait(*requests_));
}

TEST_F(TickTimerTest, OnlyTheKernelsTicksAreAskedFor) {
    using engine::AgentTimer;
    EXPECT_FALSE(AgentTimer({}).needs_arming());
    EXPECT_TRUE(AgentTimer({.has_thread_table = true}).needs_arming());
    EXPECT_TRUE(AgentTimer({.flags = control::kPerfTicks, .cpu_time = true}).needs_arming());
    EXPECT_FALSE(AgentTimer({.flags = control::kPerfTicks}).needs_arming()) << "of CPU time only";
}

TEST_F(TickTimerTest, TheTimerIsThatOfWhatIsOffered) {
    ASSERT_TRUE(channel_->signal_arrivals(control::kTickSignal, gettid()));
    engine::AgentTimer timer({.has_thread_table = true});
    EXPECT_FALSE(timer.is_started());
    timer.start({control::kTickSignal, 3600 * kNanosPerSecond, true, monotonic_ns()});
    ASSERT_TRUE(timer.is_started());
    send_tick(1000);
    EXPECT_TRUE(timer->wait(*requests_));
    send_tick(1000);
    send_stop();
    EXPECT_TRUE(timer->wait(*requests_)) << "without BPF it would be taken for the same tick";
    EXPECT_FALSE(timer->wait(*requests_));
}

TEST_F(TickTimerTest, TheClockStandsInForATimerThatCannotBeHad) {
    engine::AgentTimer timer({.has_thread_table = true});
    const std::int64_t start = monotonic_ns();
    timer.start_clock(kInterval, start);
    ASSERT_TRUE(timer->wait(*requests_)) << "without any signal";
    EXPECT_GE(monotonic_ns(), start + kInterval);
}

TEST_F(TickTimerTest, EachSignalIsATick) {
    BpfTimer timer(control::kTickSignal, kInterval, false, monotonic_ns());
    for (int i = 0; i < 3; ++i) {
        send_tick(1000);
        EXPECT_TRUE(timer.wait(*requests_));
    }
    EXPECT_EQ(timer.counts().missed, 0U);
}

TEST_F(TickTimerTest, ATickWhoseDescriptorHasTheChannelsNumberIsATick) {
    // The number is the command-line program's, where it means another file.
    BpfTimer timer(control::kTickSignal, kInterval, false, monotonic_ns());
    send_tick(channel_->fd());
    EXPECT_TRUE(timer.wait(*requests_));
}

TEST_F(TickTimerTest, AStopComesAsASignalToo) {
    ASSERT_TRUE(channel_->signal_arrivals(control::kTickSignal, gettid()));
    BpfTimer timer(control::kTickSignal, kInterval, false, monotonic_ns());
    send_tick(1000);
    ASSERT_TRUE(timer.wait(*requests_));
    send_stop();
    EXPECT_FALSE(timer.wait(*requests_));
}

TEST_F(TickTimerTest, AHangUpComesAsASignalToo) {
    ASSERT_TRUE(channel_->signal_arrivals(control::kTickSignal, gettid()));
    BpfTimer timer(control::kTickSignal, kInterval, false, monotonic_ns());
    send_tick(1000);
    ASSERT_TRUE(timer.wait(*requests_));
    other_.reset();
    EXPECT_FALSE(timer.wait(*requests_));
}

TEST_F(TickTimerTest, AStopFromBeforeTheSignalsIsHeard) {
    send_stop();
    ASSERT_TRUE(channel_->signal_arrivals(control::kTickSignal, gettid()));
    BpfTimer timer(control::kTickSignal, kInterval, false, monotonic_ns());
    EXPECT_FALSE(timer.wait(*requests_)) << "no signal will ever tell of it";
}

TEST_F(TickTimerTest, AFullQueueOfSignalsIsATickAndALookAtTheChannel) {
    BpfTimer timer(control::kTickSignal, kInterval, false, monotonic_ns());
    ASSERT_EQ(syscall(SYS_tgkill, getpid(), gettid(), SIGIO), 0);
    EXPECT_TRUE(timer.wait(*requests_));
    send_stop();
    ASSERT_EQ(syscall(SYS_tgkill, getpid(), gettid(), SIGIO), 0);
    EXPECT_FALSE(timer.wait(*requests_));
}

TEST_F(TickTimerTest, CountsRegularTicksThatDidNotCome) {
    BpfTimer timer(control::kTickSignal, kInterval, true, monotonic_ns());
    send_tick(1000);
    ASSERT_TRUE(timer.wait(*requests_));
    EXPECT_EQ(timer.counts().missed, 0U);
    const std::int64_t begin = monotonic_ns();
    while (monotonic_ns() < begin + 5 * kInterval) {
    }
    send_tick(1000);
    ASSERT_TRUE(timer.wait(*requests_));
    EXPECT_GE(timer.counts().missed, 4U);
    EXPECT_EQ(timer.counts().late, 1U);
}

TEST_F(TickTimerTest, RegularTicksThatDoNotComeAreMadeUpForWhenTheyAreDue) {
    BpfTimer timer(control::kTickSignal, kInterval, true, monotonic_ns());
    send_tick(1000);
    ASSERT_TRUE(timer.wait(*requests_));
    const std::int64_t begin = monotonic_ns();
    for (int i = 0; i < 20; ++i) {
        ASSERT_TRUE(timer.wait(*requests_));
    }
    // Each a quarter late, they would take 25; a busy machine lets some pass.
    EXPECT_GE(monotonic_ns() - begin, 19 * kInterval);
    if (timer.counts().missed == 0) {
        EXPECT_LE(monotonic_ns() - begin, 22 * kInterval);
    }
}

TEST_F(TickTimerTest, AKernelsTickThatHasBeenMadeUpForIsNoSecondOne) {
    constexpr std::int64_t kLong = 400 * kInterval;
    BpfTimer timer(control::kTickSignal, kLong, true, monotonic_ns());
    ASSERT_TRUE(timer.wait(*requests_)) << "its own";
    send_tick(1000);
    const std::int64_t begin = monotonic_ns();
    ASSERT_TRUE(timer.wait(*requests_));
    EXPECT_GE(monotonic_ns() - begin, kLong / 2);
}

// ---- Ticks of CPU time ----

TEST_F(TickTimerTest, EachSignalOfAnEventIsATick) {
    PerfTimer timer(control::kTickSignal, 2, monotonic_ns());
    for (int i = 0; i < 3; ++i) {
        send_tick(1000);
        EXPECT_TRUE(timer.wait(*requests_));
    }
}

TEST_F(TickTimerTest, TicksOfSeveralThreadsAtATimeAreOne) {
    ASSERT_TRUE(channel_->signal_arrivals(control::kTickSignal, gettid()));
    PerfTimer timer(control::kTickSignal, 3600 * kNanosPerSecond, monotonic_ns());
    send_tick(1000);
    send_tick(1001);
    EXPECT_TRUE(timer.wait(*requests_));
    send_stop();
    EXPECT_FALSE(timer.wait(*requests_)) << "the second was a tick of its own";
}

TEST_F(TickTimerTest, CpuTimeWithoutATickIsSeen) {
    PerfTimer timer(control::kTickSignal, kInterval, monotonic_ns());
    std::atomic<bool> has_ended{false};
    std::thread busy([&, waiting = gettid()] {
        std::int64_t last_ns = monotonic_ns();
        while (!has_ended) {
            // A process that gets no CPU for so long is not looked at any more before a tick. On a
            // busy machine this thread may be kept from it.
            constexpr std::int64_t kStarvedNs = 10 * kInterval;
            const std::int64_t now_ns = monotonic_ns();
            if (now_ns - last_ns > kStarvedNs) {
                send_tick(other_.get(), waiting);
            }
            last_ns = now_ns;
        }
    });
    EXPECT_TRUE(timer.wait(*requests_));
    EXPECT_TRUE(timer.wait(*requests_));
    has_ended = true;
    busy.join();
}

TEST_F(TickTimerTest, AProcessThatSleepsIsNotLookedAt) {
    ASSERT_TRUE(channel_->signal_arrivals(control::kTickSignal, gettid()));
    std::thread([] {
        const std::int64_t end = read_clock_ns(CLOCK_THREAD_CPUTIME_ID) + kInterval;
        while (read_clock_ns(CLOCK_THREAD_CPUTIME_ID) < end) {
        }
    }).join();
    PerfTimer timer(control::kTickSignal, kInterval, monotonic_ns());
    ASSERT_TRUE(timer.wait(*requests_)) << "what was used before";
    std::thread other([&] {
        const timespec moment = make_timespec(100 * kInterval);
        nanosleep(&moment, nullptr);  // so that there is something to be woken in
        send_stop();
    });
    while (timer.wait(*requests_)) {
    }
    other.join();
    // 80 looks of three calls each would fit in; after 20 ms there are no more.
    EXPECT_LT(timer.counts().system_calls, 3U * 40);
}

// ---- The request for ticks ----

TEST_F(TickTimerTest, AStopThatCrossesTheRequestIsNoFailure) {
    send_stop();
    const std::byte layout[sizeof(control::Arm::snapshot_layout)]{};
    const auto armed = channel_->arm(1, GuestFacts{}, control::kTickSignal, layout, sizeof(layout));
    ASSERT_FALSE(armed);
    EXPECT_EQ(armed.error().kind, ErrorKind::kNotReady);
    EXPECT_TRUE(channel_->was_told_to_stop());
}

TEST_F(TickTimerTest, WhatIsNoAnswerToTheRequestIsAFailure) {
    ASSERT_EQ(send(other_.get(), "no message", 10, 0), 10);
    const std::byte layout[sizeof(control::Arm::snapshot_layout)]{};
    const auto armed = channel_->arm(1, GuestFacts{}, control::kTickSignal, layout, sizeof(layout));
    ASSERT_FALSE(armed);
    EXPECT_EQ(armed.error().kind, ErrorKind::kProtocol);
    EXPECT_FALSE(channel_->was_told_to_stop());
}

// ---- The channel's descriptors ----

TEST_F(TickTimerTest, ANumberThatTheTargetHasClosedAndReusedIsLeftAlone) {
    // What os.closerange() and the next socket() do.
    const test::SocketPair foreign(SOCK_STREAM);
    const int number = channel_->fd();
    ASSERT_EQ(dup2(foreign.first.get(), number), number);
    ASSERT_EQ(send(foreign.second.get(), "data", 4, 0), 4);
    EXPECT_FALSE(channel_->wait_for_stop(0)) << "nothing comes through it any more";
    EXPECT_TRUE(channel_->is_lost());
    // And what has come for the other is no reason to wait less.
    const std::int64_t before_ns = monotonic_ns();
    EXPECT_FALSE(channel_->wait_for_stop(kInterval));
    EXPECT_GE(monotonic_ns() - before_ns, kInterval);
    channel_->send_stopped();
    channel_.reset();
    char data[8];
    EXPECT_EQ(recv(number, data, sizeof(data), MSG_DONTWAIT), 4) << "neither read nor closed";
    EXPECT_LT(recv(foreign.second.get(), data, sizeof(data), MSG_DONTWAIT), 0) << "nor written to";
    close(number);
}

}  // namespace
}  // namespace echion::agent
