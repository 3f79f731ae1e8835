// Ticks: signals to the sampler of another user's process, and snapshots of its threads.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/utsname.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "fake_interpreter.h"
#include "kernel_test.h"
#include "platform/linux/snapshot_ring.h"

namespace echion::test {
namespace {

using cli::TimerRequest;

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

    Shared* shared_ = nullptr;
};

void block_all_signals() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

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

// Keeps every CPU busy. On an idle one without a scheduler's tick perf holds a clock's ticks back:
// the agent makes up for them (SignalTimer), the samplers here do not.
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
    open();
    const Child child([this](const Child::Channel& channel) { run_target(channel, shared_, 0); });
    const auto hello = child.receive<Hello>();
    const BusyCpus busy;
    const auto target = session_->add_target(child.pid());
    ASSERT_TRUE(target);
    const auto report = session_->start_timer(
        *target, {.wall = true,
                  .interval_ns = 1'000'000,
                  .sampler_tid = static_cast<std::uint32_t>(hello.sampler_tid),
                  .signal = hello.signal,
                  .snapshot = {}});
    ASSERT_TRUE(report) << report.error().what << " " << report.error().system_errno;
    ASSERT_TRUE(comes_true([&] { return shared_->signals >= 200; }));
    session_->stop_timer(*target);
    ::usleep(20'000);
    const std::uint64_t after = shared_->signals;
    ::usleep(50'000);
    EXPECT_EQ(shared_->signals, after);
    EXPECT_EQ(shared_->wrong_signals, 0U);
}

TEST_F(Ticks, OfCpuTimeComeOneForEachIntervalUsed) {
    open();
    const Child child([this](const Child::Channel& channel) { run_target(channel, shared_, 2); });
    const auto hello = child.receive<Hello>();
    const auto target = session_->add_target(child.pid());
    ASSERT_TRUE(target);
    const auto report = session_->start_timer(
        *target, {.wall = false,
                  .interval_ns = 1'000'000,
                  .sampler_tid = static_cast<std::uint32_t>(hello.sampler_tid),
                  .signal = hello.signal,
                  .snapshot = {}});
    ASSERT_TRUE(report) << report.error().what << " " << report.error().system_errno;
    EXPECT_EQ(report->thread_events, 3U);  // all but the sampler
    shared_->work = true;
    let_it_burn(child.pid(), 500'000'000);
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
    open();
    const Child child([this](const Child::Channel& channel) {
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
    });
    const auto hello = child.receive<Hello>();
    const auto target = session_->add_target(child.pid());
    ASSERT_TRUE(target);
    ASSERT_TRUE(session_->start_timer(*target,
                                      {.wall = false,
                                       .interval_ns = 1'000'000,
                                       .sampler_tid = static_cast<std::uint32_t>(hello.sampler_tid),
                                       .signal = hello.signal,
                                       .snapshot = {}}));
    shared_->work = true;
    child.receive<char>();
    EXPECT_NEAR(static_cast<double>(session_->counters()[ECHION_COUNT_TICKS]), 200, 60);
}

TEST_F(Ticks, OfCpuTimeDoNotWakeTheSamplerOfASleepingTarget) {
    open();
    const Child child([this](const Child::Channel& channel) {
        // All threads wait in the kernel.
        run_target(channel, shared_, 0);
    });
    const auto hello = child.receive<Hello>();
    const auto target = session_->add_target(child.pid());
    ASSERT_TRUE(target);
    ASSERT_TRUE(session_->start_timer(*target,
                                      {.wall = false,
                                       .interval_ns = 1'000'000,
                                       .sampler_tid = static_cast<std::uint32_t>(hello.sampler_tid),
                                       .signal = hello.signal,
                                       .snapshot = {}}));
    ::usleep(300'000);
    EXPECT_EQ(shared_->signals, 0U);
}

TEST_F(Ticks, DoNotPileUpForASamplerThatDoesNotTakeThem) {
    open();
    const Child child([this](const Child::Channel& channel) { run_target(channel, shared_, 0); });
    const auto hello = child.receive<Hello>();
    const BusyCpus busy;
    const auto target = session_->add_target(child.pid());
    ASSERT_TRUE(target);
    ASSERT_TRUE(session_->start_timer(*target,
                                      {.wall = true,
                                       .interval_ns = 200'000,
                                       .sampler_tid = static_cast<std::uint32_t>(hello.sampler_tid),
                                       .signal = hello.signal,
                                       .snapshot = {}}));
    ASSERT_TRUE(comes_true([&] { return shared_->signals >= 10; }));
    ::kill(child.pid(), SIGSTOP);
    utsname system{};
    ::uname(&system);
    int major = 0;
    int minor = 0;
    std::sscanf(system.release, "%d.%d", &major, &minor);
    if (major * 100 + minor < 610) {
        GTEST_SKIP() << "kernels before 6.10 send the signal whatever the program says";
    }
    ASSERT_TRUE(comes_true([&] { return session_->counters()[ECHION_COUNT_SAMPLER_BUSY] > 20; }));
    const std::string path = "/proc/" + std::to_string(child.pid()) + "/status";
    std::FILE* status = std::fopen(path.c_str(), "re");
    char line[256];
    int queued = -1;
    while (std::fgets(line, sizeof(line), status) != nullptr) {
        std::sscanf(line, "SigQ: %d/", &queued);
    }
    std::fclose(status);
    EXPECT_GE(queued, 0);
    EXPECT_LE(queued, 20);
    ::kill(child.pid(), SIGCONT);
    const std::uint64_t before = shared_->signals;
    EXPECT_TRUE(comes_true([&] { return shared_->signals >= before + 50; }));  // and they go on
}

TEST_F(Ticks, AreRefusedToARequestThatBreaksTheRules) {
    open();
    const Child child([this](const Child::Channel& channel) { run_target(channel, shared_, 0); });
    const auto hello = child.receive<Hello>();
    const auto target = session_->add_target(child.pid());
    ASSERT_TRUE(target);
    const TimerRequest good{.wall = true,
                            .interval_ns = 1'000'000,
                            .sampler_tid = static_cast<std::uint32_t>(hello.sampler_tid),
                            .signal = hello.signal,
                            .snapshot = {}};
    TimerRequest bad = good;
    bad.signal = SIGKILL;
    EXPECT_FALSE(session_->start_timer(*target, bad));
    bad = good;
    bad.sampler_tid = 1;  // a thread of another process
    EXPECT_FALSE(session_->start_timer(*target, bad));
    bad = good;
    bad.interval_ns = 0;
    EXPECT_FALSE(session_->start_timer(*target, bad));
    bad = good;
    bad.snapshot.thread_refs = 4096;
    bad.snapshot.frame_bytes = 60000;
    EXPECT_FALSE(session_->start_timer(*target, bad));
    EXPECT_TRUE(session_->start_timer(*target, good));
}

constexpr std::uint64_t kDepths[] = {1, 5, 20, 100, 200};
constexpr std::uint64_t kCodeBase = 0x1000000;

struct SnapshotHello {
    Hello hello;
    pid_t worker_tid;
    std::uint64_t thread_refs;
    std::uint64_t thread_state;
};

// A worker that keeps building chains of frames whose code numbers say how deep the chain is, each
// depth in turn, over and over: a snapshot that mixes two of them is an impossible stack.
void run_snapshot_target(const Child::Channel& channel, std::uint32_t capacity) {
    auto refs = ThreadRefTable::make(capacity);
    static FakeThreadState state{};
    static std::uint64_t cframe[2]{};
    static FakeChunk chunk{};
    FakeFrame* frames = chunk.frames;
    state.chunk = &chunk;
    state.cframe = reinterpret_cast<std::uintptr_t>(cframe);
    std::atomic<pid_t> worker_tid{0};
    std::thread worker([&, frames] {
        worker_tid = current_tid();
        for (std::uint64_t round = 0;; ++round) {
            const std::uint64_t depth = kDepths[round % std::size(kDepths)];
            for (std::uint64_t i = 0; i < depth; ++i) {
                frames[i].previous = i == 0 ? 0 : reinterpret_cast<std::uintptr_t>(&frames[i - 1]);
                frames[i].code = kCodeBase + depth * 1000 + i;
                frames[i].instruction = -2;
                // An entry frame without code stands at the root of the deeper ones.
                frames[i].owner = i == 0 && depth > 1 ? 3 : 0;
            }
            __atomic_store_n(&state.top, &frames[depth], __ATOMIC_RELEASE);
            __atomic_store_n(&cframe[1], reinterpret_cast<std::uintptr_t>(&frames[depth - 1]),
                             __ATOMIC_RELEASE);
            for (int spin = 0; spin < 300; ++spin) {
                asm volatile("" ::: "memory");
            }
            __atomic_store_n(&cframe[1], 0, __ATOMIC_RELEASE);
        }
    });
    std::thread sampler([&] {
        block_all_signals();
        while (worker_tid == 0) {
            ::sched_yield();
        }
        channel.send(SnapshotHello{{current_tid(), SIGRTMIN + 3},
                                   worker_tid,
                                   refs->address(),
                                   reinterpret_cast<std::uintptr_t>(&state)});
        const auto ref = channel.receive<std::array<std::uint32_t, 2>>();
        refs->set(ref[0], ref[1], reinterpret_cast<std::uintptr_t>(&state));
        channel.send('d');
        channel.rest();
    });
    sampler.join();
}

struct SnapshotCase {
    const char* name;
    bool is_data_stack;
    bool without_loop_helper;
};

class Snapshots : public Ticks, public ::testing::WithParamInterface<SnapshotCase> {};

TEST_P(Snapshots, ShowStacksThatStoodStill) {
    open({.without_loop_helper = GetParam().without_loop_helper});
    ASSERT_TRUE(session_->enable_stats());
    const std::uint32_t capacity = states_->capacity();
    const Child child(
        [capacity](const Child::Channel& channel) { run_snapshot_target(channel, capacity); });
    const auto hello = child.receive<SnapshotHello>();
    const auto target = session_->add_target(child.pid());
    ASSERT_TRUE(target);
    const auto ring_fd = session_->snapshot_fd(*target);
    ASSERT_TRUE(ring_fd);
    auto ring = SnapshotRing::open(*ring_fd, states_->snapshot_ring_bytes());
    ASSERT_TRUE(ring);
    const auto slot = states_->find_slot(static_cast<std::uint32_t>(child.pid()),
                                         static_cast<std::uint32_t>(hello.worker_tid));
    ASSERT_TRUE(slot);
    const auto report = session_->start_timer(
        *target, {.wall = true,  // no signals from the threads: nobody waits for them here
                  .interval_ns = 50'000,
                  .sampler_tid = static_cast<std::uint32_t>(hello.hello.sampler_tid),
                  .signal = hello.hello.signal,
                  .snapshot = fake_layout(hello.thread_refs, GetParam().is_data_stack)});
    ASSERT_TRUE(report);
    EXPECT_TRUE(report->snapshots);
    child.send(std::array<std::uint32_t, 2>{*slot, states_->read(*slot)->generation});
    child.receive<char>();

    constexpr std::size_t kWanted = 20'000;
    std::size_t count = 0;
    std::size_t empty = 0;
    std::size_t impossible = 0;
    std::uint64_t frames = 0;
    ASSERT_TRUE(comes_true([&] {
        const auto drained = ring->drain([&](const SnapshotView& view) {
            ++count;
            EXPECT_EQ(view.head.slot, *slot);
            EXPECT_EQ(view.head.target_tid, static_cast<std::uint32_t>(hello.worker_tid));
            EXPECT_EQ(view.head.thread_state, hello.thread_state);
            frames += view.frames.size();
            if (view.frames.empty()) {
                empty += view.head.end == ECHION_SNAPSHOT_COMPLETE ? 1 : 0;
                impossible += view.head.end == ECHION_SNAPSHOT_COMPLETE ? 0 : 1;
                return;
            }
            const std::uint64_t depth = (view.frames[0].code - kCodeBase) / 1000;
            const std::size_t with_code = depth == 1 ? 1 : depth - 1;
            bool good =
                view.frames.size() == std::min<std::size_t>(with_code, ECHION_SNAPSHOT_FRAMES) &&
                view.head.end == (depth > ECHION_SNAPSHOT_FRAMES ? ECHION_SNAPSHOT_MORE
                                                                 : ECHION_SNAPSHOT_COMPLETE);
            for (std::size_t i = 0; i < view.frames.size(); ++i) {
                good = good && view.frames[i].code == kCodeBase + depth * 1000 + depth - 1 - i &&
                       view.frames[i].instruction == ~1ULL;
            }
            impossible += good ? 0 : 1;
        });
        EXPECT_TRUE(drained);
        return !drained || count >= kWanted;
    }));
    EXPECT_EQ(impossible, 0U);
    const auto counters = session_->counters();
    EXPECT_EQ(counters[ECHION_COUNT_SNAPSHOT_FAULT], 0U);
    for (const auto& program : session_->program_stats()) {
        if (program.name.starts_with("on_thread_tick") && program.run_count != 0) {
            std::printf(
                "  %zu snapshots, %.1f frames each, %zu without a stack, 0 impossible; "
                "%.0f ns a tick\n",
                count, static_cast<double>(frames) / static_cast<double>(count), empty,
                static_cast<double>(program.run_ns) / static_cast<double>(program.run_count));
        }
    }
}

// Frames read one by one, as those of 3.8 to 3.10, and by copies of the data stack; and as on
// kernels without bpf_loop().
INSTANTIATE_TEST_SUITE_P(ByPlace, Snapshots,
                         ::testing::Values(SnapshotCase{"Objects", false, false},
                                           SnapshotCase{"DataStack", true, false},
                                           SnapshotCase{"DataStackUnrolled", true, true}),
                         [](const auto& one) { return std::string(one.param.name); });

TEST_F(Ticks, WithASnapshotGatherForOneSignal) {
    open();
    const std::uint32_t capacity = states_->capacity();
    const Child child(
        [capacity](const Child::Channel& channel) { run_snapshot_target(channel, capacity); });
    const auto hello = child.receive<SnapshotHello>();
    const auto target = session_->add_target(child.pid());
    ASSERT_TRUE(target);
    const auto slot = states_->find_slot(static_cast<std::uint32_t>(child.pid()),
                                         static_cast<std::uint32_t>(hello.worker_tid));
    ASSERT_TRUE(slot);
    child.send(std::array<std::uint32_t, 2>{*slot, states_->read(*slot)->generation});
    child.receive<char>();
    ASSERT_TRUE(session_->start_timer(
        *target, {.wall = false,
                  .interval_ns = 50'000,
                  .sampler_tid = static_cast<std::uint32_t>(hello.hello.sampler_tid),
                  .signal = hello.hello.signal,
                  .snapshot = fake_layout(hello.thread_refs)}));
    EXPECT_TRUE(comes_true([&] { return session_->counters()[ECHION_COUNT_SNAPSHOTS] >= 250; }));
    const auto counters = session_->counters();
    const auto wanted = counters[ECHION_COUNT_SIGNALS] + counters[ECHION_COUNT_SAMPLER_BUSY];
    EXPECT_GT(wanted, 0U);
    EXPECT_LT(wanted * 4, counters[ECHION_COUNT_SNAPSHOTS]);  // 18 of them pass in the gap
}

TEST_F(Ticks, CountSnapshotsThatCannotBeTaken) {
    open({.snapshot_ring_bytes = 4096});
    const std::uint32_t capacity = states_->capacity();
    const Child child(
        [capacity](const Child::Channel& channel) { run_snapshot_target(channel, capacity); });
    const auto hello = child.receive<SnapshotHello>();
    const auto target = session_->add_target(child.pid());
    ASSERT_TRUE(target);
    const auto slot = states_->find_slot(static_cast<std::uint32_t>(child.pid()),
                                         static_cast<std::uint32_t>(hello.worker_tid));
    ASSERT_TRUE(slot);
    TimerRequest request{.wall = true,
                         .interval_ns = 50'000,
                         .sampler_tid = static_cast<std::uint32_t>(hello.hello.sampler_tid),
                         .signal = hello.hello.signal,
                         .snapshot = fake_layout(hello.thread_refs)};
    const auto wait_for = [this](echion_counter counter) {
        EXPECT_TRUE(comes_true([&] { return session_->counters()[counter] != 0; })) << counter;
    };
    ASSERT_TRUE(session_->start_timer(*target, request));
    wait_for(ECHION_COUNT_SNAPSHOT_UNKNOWN);  // its thread state has not been given yet
    child.send(std::array<std::uint32_t, 2>{*slot, states_->read(*slot)->generation});
    child.receive<char>();
    wait_for(ECHION_COUNT_SNAPSHOT_FULL);  // nobody reads
    request.snapshot.state_from = 4000;    // points to something that is no thread state
    ASSERT_TRUE(session_->start_timer(*target, request));
    // Whatever stands there: nothing hangs and nothing is read but the target's memory.
    request.snapshot = fake_layout(0x1000);  // not mapped
    ASSERT_TRUE(session_->start_timer(*target, request));
    const auto before = session_->counters()[ECHION_COUNT_SNAPSHOT_UNKNOWN];
    EXPECT_TRUE(
        comes_true([&] { return session_->counters()[ECHION_COUNT_SNAPSHOT_UNKNOWN] != before; }));
}

}  // namespace
}  // namespace echion::test
