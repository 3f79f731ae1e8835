// CPU time from the BPF programs against the kernel's own figure, the thread's clock.
#include <fcntl.h>
#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "kernel_test.h"
#include "platform/thread_stat.h"

namespace echion::test {
namespace {

/// What a thread of the child says of itself at its end.
struct Figures {
    pid_t tid;
    std::int64_t cpu_ns;
};

class CpuTime : public SessionTest {
  protected:
    /// The figure of a child's thread agrees with the kernel's own within a share. Both are read
    /// while it rests, after it has read its clock: what it does after that, its own reading leaves
    /// out, and a host that pauses the machine can make that a millisecond.
    void expect_agrees(const Child& child, const Figures& figures, double share) {
        Result<engine::CpuState> state = fail(ErrorKind::kInvalid, "not looked for");
        Result<ThreadRun> run = fail(ErrorKind::kInvalid, "not looked for");
        ASSERT_TRUE(comes_true([&] {
            run = read_thread_run(child.pid(), figures.tid);
            state = find(static_cast<std::uint32_t>(figures.tid));
            const auto after = read_thread_run(child.pid(), figures.tid);
            return run && after && *run == *after && run->run_ns >= figures.cpu_ns && state &&
                   !state->is_on_cpu();
        })) << "thread "
            << figures.tid << " is not in the table, or does not rest";
        const double expected = static_cast<double>(run->run_ns);
        const double seen = static_cast<double>(state->on_cpu_ns);
        EXPECT_NEAR(seen, expected, expected * share)
            << "ended: " << state->ended << ", runs: " << state->run_count;
        ++compared_;
        largest_ = std::max(largest_, std::abs(seen / expected - 1));
    }
    /// CPU time of all threads that the table knows.
    [[nodiscard]] double total_ns() const {
        std::uint64_t sum = 0;
        for (std::uint32_t slot = 0; slot < states_->used(); ++slot) {
            const auto state = states_->read(slot);
            EXPECT_TRUE(state);
            sum += state ? state->cpu_ns_at(static_cast<std::uint64_t>(monotonic_ns())) : 0;
        }
        return static_cast<double>(sum);
    }
    void TearDown() override {
        if (compared_ > 0) {
            std::printf("  %d threads compared, largest difference %.4f %%\n", compared_,
                        100 * largest_);
        }
    }

  private:
    int compared_ = 0;
    double largest_ = 0;
};

// The child: `count` threads that each run `work`, report, and rest.
Child make_workers(int count, const std::function<void()>& work) {
    return Child([=](const Child::Channel& channel) {
        channel.receive<char>();
        std::vector<std::thread> threads;
        for (int i = 0; i < count; ++i) {
            threads.emplace_back([&] {
                work();
                channel.send(Figures{current_tid(), own_cpu_ns()});
                ::pause();
            });
        }
        channel.rest();
    });
}

TEST_F(CpuTime, OfBusyThreadsAgreesWithTheirClocks) {
    open();
    const Child child = make_workers(3, [] { burn(200'000'000); });
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send('g');
    for (int i = 0; i < 3; ++i) {
        expect_agrees(child, child.receive<Figures>(), 0.01);
    }
}

TEST_F(CpuTime, OfManyShortBurstsAgrees) {
    open();
    const Child child = make_workers(2, [] {
        for (int i = 0; i < 1500; ++i) {
            burn(40'000);
            ::usleep(60);
        }
    });
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send('g');
    for (int i = 0; i < 2; ++i) {
        expect_agrees(child, child.receive<Figures>(), 0.01);
    }
}

TEST_F(CpuTime, OfAProcessThatIsIdleMostOfTheTimeAgrees) {
    open();
    const Child child = make_workers(1, [] {
        for (int i = 0; i < 50; ++i) {
            burn(1'000'000);
            ::usleep(19'000);
        }
    });
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send('g');
    expect_agrees(child, child.receive<Figures>(), 0.01);
}

std::int64_t process_cpu_ns() {
    rusage usage{};
    ::getrusage(RUSAGE_SELF, &usage);
    return (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * kNanosPerSecond +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
}

// What a thread costs after it has read its clock, its end, belongs to it too; and to the process's
// total, which is exact. So: the half of the threads nearest to their clocks, and the sum.
TEST_F(CpuTime, OfThreadsThatLiveForFiveMillisecondsAgrees) {
    open({.quarantine_ns = ~0ULL >> 1});  // all their slots, however long it takes
    constexpr int kThreads = 100;
    const Child child([](const Child::Channel& channel) {
        channel.receive<char>();
        for (int i = 0; i < kThreads; ++i) {
            std::thread([&] {
                burn(5'000'000);
                channel.send(Figures{current_tid(), own_cpu_ns()});
            }).join();
        }
        channel.send(process_cpu_ns());
        channel.rest();
    });
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send('g');
    std::vector<Figures> threads;
    for (int i = 0; i < kThreads; ++i) {
        threads.push_back(child.receive<Figures>());
    }
    const auto expected_sum = static_cast<double>(child.receive<std::int64_t>());
    std::vector<double> differences;
    for (const Figures& thread : threads) {
        Result<engine::CpuState> state = fail(ErrorKind::kInvalid, "");
        do {  // joined: it is about to leave its CPU for the last time
            state = find(static_cast<std::uint32_t>(thread.tid));
            ASSERT_TRUE(state);
        } while (!state->ended);
        EXPECT_GE(state->on_cpu_ns, static_cast<std::uint64_t>(thread.cpu_ns));
        differences.push_back(
            static_cast<double>(state->on_cpu_ns) / static_cast<double>(thread.cpu_ns) - 1);
    }
    std::sort(differences.begin(), differences.end());
    // A thread's end costs time, too, which is in the sum only.
    EXPECT_NEAR(total_ns(), expected_sum, expected_sum * 0.01);
    std::printf("  %d threads: median difference %.4f %%, largest %.4f %%; of the sum %.4f %%\n",
                kThreads, 100 * differences[kThreads / 2], 100 * differences.back(),
                100 * std::abs(total_ns() / expected_sum - 1));
}

TEST_F(CpuTime, OfThreadsThatRanBeforeTheSessionAgrees) {
    open();
    const Child child([](const Child::Channel& channel) {
        std::atomic<bool> stop{false};
        std::thread busy([&] {
            channel.send(current_tid());
            while (!stop) {
            }
            channel.send(Figures{current_tid(), own_cpu_ns()});
            ::pause();
        });
        burn(20'000'000);
        channel.send(current_tid());
        channel.receive<char>();
        stop = true;
        channel.rest();
    });
    child.receive<pid_t>();
    child.receive<pid_t>();  // both have used CPU time, and one is using it now
    ASSERT_TRUE(session_->add_target(child.pid()));
    ::usleep(100'000);
    child.send('s');
    expect_agrees(child, child.receive<Figures>(), 0.01);
    const auto main_thread = find(static_cast<std::uint32_t>(child.pid()));
    ASSERT_TRUE(main_thread);
    EXPECT_GE(main_thread->start_cpu_ns, 20'000'000U);
}

TEST_F(CpuTime, OfAllThreadsTogetherAgreesWithGetrusage) {
    open();
    const Child child([](const Child::Channel& channel) {
        channel.receive<char>();
        std::vector<std::thread> threads;
        for (int i = 0; i < 20; ++i) {
            threads.emplace_back([i] { burn(2'000'000 * (i + 1)); });
        }
        for (std::thread& thread : threads) {
            thread.join();
        }
        channel.send(process_cpu_ns());
        channel.rest();
    });
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send('g');
    const auto expected = static_cast<double>(child.receive<std::int64_t>());
    EXPECT_NEAR(total_ns(), expected, expected * 0.01);
    std::printf("  difference %.4f %%\n", 100 * std::abs(total_ns() / expected - 1));
}

TEST_F(CpuTime, SwitchesAreCountedAndGivenAReason) {
    open();
    const Child child = make_workers(1, [] {
        // A sleep that is over before its thread has left the CPU is no switch.
        for (rusage usage{}; usage.ru_nvcsw < 200; getrusage(RUSAGE_THREAD, &usage)) {
            ::usleep(100);
        }
    });
    ASSERT_TRUE(session_->add_target(child.pid()));
    child.send('g');
    const auto figures = child.receive<Figures>();
    Result<engine::CpuState> state = fail(ErrorKind::kInvalid, "");
    do {  // until it has gone to rest
        state = find(static_cast<std::uint32_t>(figures.tid));
        ASSERT_TRUE(state);
    } while (state->is_on_cpu() || state->off_reason != ECHION_OFF_WAITING);
    EXPECT_GE(state->run_count, 200U);
}

}  // namespace
}  // namespace echion::test
