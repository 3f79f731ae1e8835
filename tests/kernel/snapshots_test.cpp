// Snapshots: the stacks of a target's threads, copied in the tick.
#include <atomic>
#include <thread>

#include "engine/bpf/snapshot_ring.h"
#include "fake_interpreter.h"
#include "kernel_test.h"

namespace echion::test {
namespace {

constexpr std::uint64_t kDepths[] = {1, 5, 20, 100, 200};
constexpr std::uint64_t kCodeBase = 0x1000000;

struct Hello {
    pid_t sampler_tid;
    pid_t worker_tid;
    std::uint64_t thread_refs;
    std::uint64_t thread_state;
};

// A worker that keeps building chains of frames whose code numbers say how deep the chain is, each
// depth in turn, over and over: a snapshot that mixes two of them is an impossible stack.
void run_target(const Child::Channel& channel, std::uint32_t capacity) {
    auto refs = engine::ThreadRefTable::make(capacity);
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
        channel.send(Hello{current_tid(), worker_tid, refs->address(),
                           reinterpret_cast<std::uintptr_t>(&state)});
        const auto ref = channel.receive<std::array<std::uint32_t, 2>>();
        refs->set(ref[0], ref[1], reinterpret_cast<std::uintptr_t>(&state));
        channel.send('d');
        channel.rest();
    });
    sampler.join();
}

class Snapshots : public SessionTest {
  protected:
    /// Starts a target and finds its worker's slot.
    void start(const BpfOptions& options = {}) {
        open(options);
        const std::uint32_t capacity = states_->capacity();
        child_ = std::make_unique<Child>(
            [capacity](const Child::Channel& channel) { run_target(channel, capacity); });
        hello_ = child_->receive<Hello>();
        const auto target = session_->add_target(child_->pid());
        ASSERT_TRUE(target);
        target_ = *target;
        const auto slot = states_->find_slot(static_cast<std::uint32_t>(child_->pid()),
                                             static_cast<std::uint32_t>(hello_.worker_tid));
        ASSERT_TRUE(slot);
        slot_ = *slot;
    }

    /// In wall mode the threads' ticks send no signals: nobody waits for them here.
    [[nodiscard]] engine::TimerRequest request(bool wall, bool in_data_stack = false) const {
        return {.wall = wall,
                .interval_ns = 50'000,
                .sampler_tid = static_cast<std::uint32_t>(hello_.sampler_tid),
                .signal = SIGRTMIN + 3,
                .snapshot = fake_layout(hello_.thread_refs, in_data_stack)};
    }

    /// Has the target enter the worker's thread state in its table.
    void give_thread_state() {
        child_->send(std::array<std::uint32_t, 2>{slot_, states_->read(slot_)->generation});
        child_->receive<char>();
    }

    std::unique_ptr<Child> child_;
    Hello hello_{};
    std::uint32_t target_ = 0;
    std::uint32_t slot_ = 0;
};

struct Place {
    const char* name;
    bool is_data_stack;
    bool without_loop_helper;
};

class SnapshotsByPlace : public Snapshots, public ::testing::WithParamInterface<Place> {};

TEST_P(SnapshotsByPlace, ShowStacksThatStoodStill) {
    ASSERT_NO_FATAL_FAILURE(start({.without_loop_helper = GetParam().without_loop_helper}));
    ASSERT_TRUE(session_->enable_stats());
    const auto ring_fd = session_->snapshot_fd(target_);
    ASSERT_TRUE(ring_fd);
    auto ring = engine::SnapshotRing::open(*ring_fd, states_->snapshot_ring_bytes());
    ASSERT_TRUE(ring);
    const auto report = session_->start_timer(target_, request(true, GetParam().is_data_stack));
    ASSERT_TRUE(report);
    EXPECT_TRUE(report->snapshots);
    give_thread_state();

    constexpr std::size_t kWanted = 20'000;
    std::size_t count = 0;
    std::size_t empty = 0;
    std::size_t impossible = 0;
    std::uint64_t frames = 0;
    ASSERT_TRUE(comes_true([&] {
        const auto drained = ring->drain([&](const engine::SnapshotView& view) {
            ++count;
            EXPECT_EQ(view.head.slot, slot_);
            EXPECT_EQ(view.head.target_tid, static_cast<std::uint32_t>(hello_.worker_tid));
            EXPECT_EQ(view.head.thread_state, hello_.thread_state);
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
INSTANTIATE_TEST_SUITE_P(All, SnapshotsByPlace,
                         ::testing::Values(Place{"Objects", false, false},
                                           Place{"DataStack", true, false},
                                           Place{"DataStackUnrolled", true, true}),
                         [](const auto& one) { return std::string(one.param.name); });

TEST_F(Snapshots, GatherForOneSignal) {
    ASSERT_NO_FATAL_FAILURE(start());
    give_thread_state();
    ASSERT_TRUE(session_->start_timer(target_, request(false)));
    EXPECT_TRUE(comes_true([&] { return session_->counters()[ECHION_COUNT_SNAPSHOTS] >= 250; }));
    const auto counters = session_->counters();
    const auto wanted = counters[ECHION_COUNT_SIGNALS] + counters[ECHION_COUNT_SAMPLER_BUSY];
    EXPECT_GT(wanted, 0U);
    EXPECT_LT(wanted * 4, counters[ECHION_COUNT_SNAPSHOTS]);  // 18 of them pass in the gap
}

TEST_F(Snapshots, AreCountedWhenTheyCannotBeTaken) {
    ASSERT_NO_FATAL_FAILURE(start({.snapshot_ring_bytes = 4096}));
    const auto wait_for = [this](echion_counter counter) {
        EXPECT_TRUE(comes_true([&] { return session_->counters()[counter] != 0; })) << counter;
    };
    engine::TimerRequest wrong = request(true);
    ASSERT_TRUE(session_->start_timer(target_, wrong));
    wait_for(ECHION_COUNT_SNAPSHOT_UNKNOWN);  // its thread state has not been given yet
    give_thread_state();
    wait_for(ECHION_COUNT_SNAPSHOT_FULL);  // nobody reads
    wrong.snapshot.state_from = 4000;      // points to something that is no thread state
    ASSERT_TRUE(session_->start_timer(target_, wrong));
    // Whatever stands there: nothing hangs and nothing is read but the target's memory.
    wrong.snapshot = fake_layout(0x1000);  // not mapped
    ASSERT_TRUE(session_->start_timer(target_, wrong));
    const auto before = session_->counters()[ECHION_COUNT_SNAPSHOT_UNKNOWN];
    EXPECT_TRUE(
        comes_true([&] { return session_->counters()[ECHION_COUNT_SNAPSHOT_UNKNOWN] != before; }));
}

TEST(SnapshotLayout, IsRefusedWithFieldsOutOfBounds) {
    if (!engine::bpf_is_built_in()) {
        GTEST_SKIP() << "a build without BPF";
    }
    echion_snapshot_layout good{};
    good.thread_refs = 4096;
    good.pointer_mask = ~0ULL;
    good.state_bytes = 256;
    good.head = 248;
    good.stack_chunk = ECHION_ABSENT;
    good.stack_top = ECHION_ABSENT;
    good.cframe_head = ECHION_ABSENT;
    good.frame_bytes = 72;
    good.frame_instruction = 56;
    good.owner_without_code = ECHION_ABSENT;
    EXPECT_TRUE(engine::is_valid(good));
    const auto is_refused = [&good](auto change) {
        echion_snapshot_layout bad = good;
        change(bad);
        return !engine::is_valid(bad);
    };
    EXPECT_TRUE(is_refused([](auto& bad) { bad.frame_bytes = ECHION_FRAME_BYTES + 1; }));
    EXPECT_TRUE(is_refused([](auto& bad) { bad.frame_previous = 65; }));
    EXPECT_TRUE(is_refused([](auto& bad) { bad.frame_owner = 72; }));
    EXPECT_TRUE(is_refused([](auto& bad) { bad.instruction_shift = 33; }));
    EXPECT_TRUE(is_refused([](auto& bad) { bad.pointer_mask = 0xff; }));
    EXPECT_TRUE(is_refused([](auto& bad) { bad.head = 249; }));
    EXPECT_TRUE(is_refused([](auto& bad) { bad.state_bytes = 257; }));
    EXPECT_TRUE(is_refused([](auto& bad) { bad.stack_chunk = 256; }));
}

}  // namespace
}  // namespace echion::test
