// Ticks: signals to the sampler of another user's process.
#include <sys/mman.h>
#include <sys/utsname.h>

#include <atomic>
#include <thread>

#include "kernel_test.h"

namespace echion::test {
namespace {

using engine::TimerRequest;

/// In memory shared by the child and the test: what its sampler saw, and orders to its threads.
struct Shared {
    std::atomic<std::uint64_t> signals;
    std::atomic<std::uint64_t> wrong_signals;
    std::atomic<bool> work;
    std::atomic<bool> hold_sampler;
};

struct Hello {
    pid_t sampler_tid;
    int signal;
};

// A sampler of uid nobody, with `workers` threads that are busy while told to be.
void run_target(const Child::Channel& channel, Shared* shared, int workers) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) {
        ::_exit(9);
    }
    const int signal = SIGRTMIN + 3;
    std::vector<std::thread> threads;
    for (int i = 0; i < workers; ++i) {
        threads.emplace_back([shared] {
            while (true) {
                if (shared->work) {
                    burn(100'000);
                } else {
                    ::usleep(500);
                }
            }
        });
    }
    std::thread sampler([&] {
        block_all_signals();
        sigset_t wanted;
        ::sigemptyset(&wanted);
        ::sigaddset(&wanted, signal);
        ::sigaddset(&wanted, SIGIO);
        channel.send(Hello{current_tid(), signal});
        siginfo_t info{};
        while (true) {
            if (shared->hold_sampler) {
                ::usleep(500);
                continue;
            }
            const timespec second{1, 0};
            const int received = ::sigtimedwait(&wanted, &info, &second);
            if (received == signal) {
                ++shared->signals;
            } else if (received > 0) {
                ++shared->wrong_signals;
            }
        }
    });
    channel.rest();
}

class Ticks : public SessionTest {
  protected:
    void SetUp() override {
        SessionTest::SetUp();
        void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        ASSERT_NE(memory, MAP_FAILED);
        shared_ = new (memory) Shared{};
    }

    /// Waits until the child's threads have used so much CPU time.
    void let_it_burn(pid_t pid, std::int64_t cpu_ns) const {
        clockid_t clock = 0;
        ASSERT_EQ(::clock_getcpuclockid(pid, &clock), 0);
        const std::int64_t end = read_clock_ns(clock) + cpu_ns;
        ASSERT_TRUE(comes_true([&] { return read_clock_ns(clock) >= end; }));
    }

    /// Starts a target, whose process runs `body`; its sampler has said hello.
    void start(const std::function<void(const Child::Channel&)>& body) {
        open();
        child_ = std::make_unique<Child>(body);
        hello_ = child_->receive<Hello>();
        const auto target = session_->add_target(child_->pid());
        ASSERT_TRUE(target);
        target_ = *target;
    }
    void start(int workers) {
        start([this, workers](const Child::Channel& channel) {
            run_target(channel, shared_, workers);
        });
    }

    [[nodiscard]] TimerRequest request(bool wall, std::int64_t interval_ns = 1'000'000) const {
        return {.wall = wall,
                .interval_ns = interval_ns,
                .sampler_tid = static_cast<std::uint32_t>(hello_.sampler_tid),
                .signal = hello_.signal,
                .snapshot = {}};
    }

    Shared* shared_ = nullptr;
    std::unique_ptr<Child> child_;
    Hello hello_{};
    std::uint32_t target_ = 0;
};

// Keeps every CPU busy. On an idle one without a scheduler's tick perf holds a clock's ticks back:
// the agent makes up for them (BpfTimer), the samplers here do not.
class BusyCpus {
  public:
    BusyCpus() {
        for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i) {
            threads_.emplace_back([this] {
                while (!has_ended_) {
                    burn(100'000);
                }
            });
        }
    }
    ~BusyCpus() {
        has_ended_ = true;
        for (std::thread& thread : threads_) {
            thread.join();
        }
    }

  private:
    std::atomic<bool> has_ended_{false};
    std::vector<std::thread> threads_;
};

TEST_F(Ticks, OfTheWallClockReachTheSamplerOfAnotherUser) {
    ASSERT_NO_FATAL_FAILURE(start(0));
    const BusyCpus busy;
    const auto report = session_->start_timer(target_, request(true));
    ASSERT_TRUE(report) << report.error().what << " " << report.error().system_errno;
    ASSERT_TRUE(comes_true([&] { return shared_->signals >= 200; }));
    session_->stop_timer(target_);
    ::usleep(20'000);
    const std::uint64_t after = shared_->signals;
    ::usleep(50'000);
    EXPECT_EQ(shared_->signals, after);
    EXPECT_EQ(shared_->wrong_signals, 0U);
}

TEST_F(Ticks, OfCpuTimeComeOneForEachIntervalUsed) {
    ASSERT_NO_FATAL_FAILURE(start(2));
    const auto report = session_->start_timer(target_, request(false));
    ASSERT_TRUE(report) << report.error().what << " " << report.error().system_errno;
    EXPECT_EQ(report->thread_events, 3U);  // all but the sampler
    shared_->work = true;
    let_it_burn(child_->pid(), 500'000'000);
    const auto counters = session_->counters();
    const double ticks = static_cast<double>(counters[ECHION_COUNT_TICKS]);
    EXPECT_NEAR(ticks, 500, 100);  // the machine's host takes some
    // Each sent its signal, unless so many waited already (on a machine that is busy elsewhere).
    EXPECT_EQ(counters[ECHION_COUNT_SIGNALS] + counters[ECHION_COUNT_SAMPLER_BUSY],
              counters[ECHION_COUNT_TICKS]);
    EXPECT_GE(shared_->signals + 10, counters[ECHION_COUNT_SIGNALS]);
    EXPECT_GT(shared_->signals, 0U);
    EXPECT_EQ(counters[ECHION_COUNT_OWN_TICKS], 0U);
    std::printf("  %.0f ticks, %lu signals for 500 intervals\n", ticks,
                static_cast<unsigned long>(shared_->signals.load()));
}

TEST_F(Ticks, OfCpuTimeComeFromThreadsStartedLater) {
    ASSERT_NO_FATAL_FAILURE(start([this](const Child::Channel& channel) {
        std::thread order([&] {
            while (!shared_->work) {  // and not the channel: the main thread has it
                ::usleep(500);
            }
            for (int i = 0; i < 20; ++i) {
                std::thread([] { burn(10'000'000); }).join();
            }
            channel.send('d');
        });
        run_target(channel, shared_, 0);
    }));
    ASSERT_TRUE(session_->start_timer(target_, request(false)));
    shared_->work = true;
    child_->receive<char>();
    EXPECT_NEAR(static_cast<double>(session_->counters()[ECHION_COUNT_TICKS]), 200, 60);
}

TEST_F(Ticks, OfCpuTimeDoNotWakeTheSamplerOfASleepingTarget) {
    ASSERT_NO_FATAL_FAILURE(start(0));  // all threads wait in the kernel
    ASSERT_TRUE(session_->start_timer(target_, request(false)));
    ::usleep(300'000);
    EXPECT_EQ(shared_->signals, 0U);
}

TEST_F(Ticks, DoNotPileUpForASamplerThatDoesNotTakeThem) {
    ASSERT_NO_FATAL_FAILURE(start(0));
    const BusyCpus busy;
    ASSERT_TRUE(session_->start_timer(target_, request(true, 200'000)));
    ASSERT_TRUE(comes_true([&] { return shared_->signals >= 10; }));
    ::kill(child_->pid(), SIGSTOP);
    utsname system{};
    ::uname(&system);
    int major = 0;
    int minor = 0;
    std::sscanf(system.release, "%d.%d", &major, &minor);
    if (major * 100 + minor < 610) {
        GTEST_SKIP() << "kernels before 6.10 send the signal whatever the program says";
    }
    ASSERT_TRUE(comes_true([&] { return session_->counters()[ECHION_COUNT_SAMPLER_BUSY] > 20; }));
    const std::string path = "/proc/" + std::to_string(child_->pid()) + "/status";
    std::FILE* status = std::fopen(path.c_str(), "re");
    char line[256];
    int queued = -1;
    while (std::fgets(line, sizeof(line), status) != nullptr) {
        std::sscanf(line, "SigQ: %d/", &queued);
    }
    std::fclose(status);
    EXPECT_GE(queued, 0);
    EXPECT_LE(queued, 20);
    ::kill(child_->pid(), SIGCONT);
    const std::uint64_t before = shared_->signals;
    EXPECT_TRUE(comes_true([&] { return shared_->signals >= before + 50; }));  // and they go on
}

TEST_F(Ticks, AreRefusedToARequestThatBreaksTheRules) {
    ASSERT_NO_FATAL_FAILURE(start(0));
    const TimerRequest good = request(true);
    TimerRequest bad = good;
    bad.signal = SIGKILL;
    EXPECT_FALSE(session_->start_timer(target_, bad));
    bad = good;
    bad.sampler_tid = 1;  // a thread of another process
    EXPECT_FALSE(session_->start_timer(target_, bad));
    bad = good;
    bad.interval_ns = 0;
    EXPECT_FALSE(session_->start_timer(target_, bad));
    bad = good;
    bad.snapshot.thread_refs = 4096;
    bad.snapshot.frame_bytes = 60000;
    EXPECT_FALSE(session_->start_timer(target_, bad));
    EXPECT_TRUE(session_->start_timer(target_, good));
}

}  // namespace
}  // namespace echion::test
