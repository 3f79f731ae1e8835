#include "sampling/thread_owners.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string_view>
#include <vector>

#include "code/code_registry.h"
#include "rows.h"
#include "sampling/running_tasks.h"
#include "sampling/task_labels.h"
#include "sampling/thread_roster.h"
#include "stream/ring.h"

namespace echion::sampling {
namespace {

using cpython::at;
using cpython::has;

constexpr std::size_t kMaxFrames = 16;
constexpr std::size_t kStates = 4;
constexpr std::size_t kBytes = 4096;  // more than any row's structures
// A pthread_t: such a number, in no structure's memory.
constexpr std::uintptr_t kThreadId = 0x7000;

/// Thread states of two interpreters in this process's own memory, which change as a test says. The
/// newest interpreter is the first, as CPython has them.
class ThreadOwnersOf : public testing::TestWithParam<int>, private VoidBatchListener {
  protected:
    static constexpr std::uint32_t kSub = 0, kMain = 1;

    void SetUp() override {
        memory_.view.layout = &layout_;
        memory_.view.runtime = address(runtime_);
        ASSERT_TRUE(memory_.reader.open_own());
        memory_.batch = PageBatch::make(1 << 20).value();
        threads_ = ThreadTable::make(kMaxFrames).value();
        interpreters_ = Interpreters::make(layout_).value();
        codes_ = code::CodeRegistry::make(memory_.view).value();
        ASSERT_TRUE(changed_.reserve() && naming_.reserve() && accounts_.reserve() &&
                    roster_.reserve());
        const UniqueFd fd = stream::make_ring().value();
        ring_ = stream::RingProducer(stream::RingMapping::open(fd.get()).value());
        ticks_.start(ring_, 0, 1'000'000, false, {3, 14, 0});
        const bool has_own_gil = has(layout_.interpreter.ceval_gil);
        const std::array<cpython::InterpreterHead, 2> heads{
            cpython::InterpreterHead{address(interpreter_memory_[kSub]),
                                     address(interpreter_memory_[kSub]), 4},
            cpython::InterpreterHead{address(interpreter_memory_[kMain]),
                                     address(interpreter_memory_[has_own_gil ? kMain : kSub]), 0}};
        interpreters_.replace(heads);
    }

    using Bytes = std::array<std::byte, kBytes>;
    static Address address(const Bytes& bytes) {
        return Address(reinterpret_cast<std::uintptr_t>(bytes.data()));
    }
    static void put(Bytes& bytes, cpython::Offset offset, const auto& value) {
        if (has(offset)) {
            std::memcpy(bytes.data() + at(offset), &value, sizeof(value));
        }
    }
    Address state(std::size_t number) { return address(state_memory_[number]); }

    struct State {
        std::size_t place;  // in state_memory_
        std::uint64_t id;
        std::uintptr_t thread_id;
    };
    /// Makes this the list of an interpreter, newest first. What is in no list stays as it was but
    /// for its links, as freed memory does.
    void list(std::uint32_t interpreter, const std::vector<State>& states) {
        const auto& fields = layout_.thread_state;
        const auto link = [&](std::size_t i) {
            return i < states.size() ? state(states[i].place).value() : std::uintptr_t{0};
        };
        put(interpreter_memory_[interpreter], layout_.interpreter.threads_head, link(0));
        for (std::size_t i = 0; i < states.size(); ++i) {
            Bytes& bytes = state_memory_[states[i].place];
            put(bytes, fields.prev, i == 0 ? std::uintptr_t{0} : link(i - 1));
            put(bytes, fields.next, link(i + 1));
            put(bytes, fields.interp, address(interpreter_memory_[interpreter]).value());
            put(bytes, fields.id, states[i].id);
            put(bytes, fields.thread_id, states[i].thread_id);
        }
    }
    /// Has lists walked until none is left that asks for it.
    void walk(std::uint32_t interpreter) {
        interpreters_[interpreter].list_changed = true;
        for (int i = 0; i < 4 && roster_.walk_changed_lists(interpreters_[interpreter].gil); ++i) {
        }
    }
    static void name(TrackedThread& thread, std::string_view name) {
        std::memcpy(thread.name, name.data(), name.size());
        thread.name_bytes = static_cast<std::uint32_t>(name.size());
    }
    /// The thread of the state at `taker` runs with that at `running`.
    void run(std::size_t running, std::size_t taker) {
        cpython::GilState gil;
        gil.locked = 1;
        gil.current = state(running);
        gil.last_holder = state(taker);
        owners_.note_running(gil);
    }

    const cpython::Layout& layout_ = test::row_of(GetParam());
    Bytes runtime_{};
    std::array<Bytes, 2> interpreter_memory_{};
    std::array<Bytes, kStates> state_memory_{};

    SamplerOptions options_;
    PythonMemory memory_;
    stream::RingProducer ring_;
    TickStream ticks_{*this};
    CpuWatch watch_;
    ThreadTable threads_;
    Interpreters interpreters_;
    code::CodeRegistry codes_;
    ChangedStacks changed_{threads_, interpreters_};
    ThreadWriter writer_{ticks_, threads_, interpreters_, watch_, options_};
    ThreadNaming naming_{memory_, ticks_, threads_, interpreters_, writer_};
    CpuAccounts accounts_{memory_, ticks_, threads_, watch_, writer_, naming_, options_};
    ThreadOwners owners_{memory_, threads_, interpreters_, changed_,
                         writer_, naming_,  accounts_,     options_};
    TaskLabels labels_;
    RunningTasks tasks_{memory_, interpreters_, labels_};
    LoopCodes loop_codes_{ticks_};
    StackCodes stack_codes_{memory_, ticks_, loop_codes_, codes_, labels_};
    SuspendedTasks suspended_{memory_,      ticks_,      interpreters_, changed_, codes_,
                              stack_codes_, loop_codes_, tasks_,        labels_,  options_};
    ThreadRoster roster_{memory_, ticks_,    threads_, interpreters_, changed_,  codes_,
                         naming_, accounts_, owners_,  tasks_,        suspended_};

  private:
    void on_void_batch() override {}
};

/// From 3.13 on a thread has a state of its own in each interpreter.
using OwnStates = ThreadOwnersOf;

TEST_P(OwnStates, TwoOfOneThread) {
    list(kMain, {{0, 5, kThreadId}});
    walk(kMain);
    list(kSub, {{1, 1, kThreadId}});
    walk(kSub);
    const TrackedThread* sub = threads_.find(state(1));
    ASSERT_NE(sub, nullptr);
    EXPECT_TRUE(sub->has_begun);
    EXPECT_TRUE(sub->is_second);
}

TEST_P(OwnStates, ANumberThatAnotherThreadHasByNowIsNotTakenForTheFormerOnes) {
    list(kMain, {{0, 5, kThreadId}});
    walk(kMain);
    ASSERT_NE(threads_.find(state(0)), nullptr);
    // That thread ends; the next one has its number and its state's place, and is met elsewhere.
    list(kMain, {{0, 6, kThreadId}});
    list(kSub, {{1, 1, kThreadId}});
    walk(kSub);
    const TrackedThread* main = threads_.find(state(0));
    const TrackedThread* sub = threads_.find(state(1));
    ASSERT_TRUE(main != nullptr && sub != nullptr);
    EXPECT_EQ(main->head.id, 6U);
    EXPECT_TRUE(main->has_begun);
    EXPECT_TRUE(sub->has_begun);
    EXPECT_TRUE(sub->may_have_changed);
}

TEST_P(OwnStates, AFormerThreadsStateThatIsListedNoMoreIsEnded) {
    list(kMain, {{0, 5, kThreadId}});
    walk(kMain);
    list(kMain, {{2, 6, kThreadId}});
    list(kSub, {{1, 1, kThreadId}});
    walk(kSub);
    const TrackedThread* sub = threads_.find(state(1));
    ASSERT_NE(sub, nullptr);
    EXPECT_TRUE(sub->has_begun);
    EXPECT_EQ(threads_.find(state(0)), nullptr);
    EXPECT_NE(threads_.find(state(2)), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Versions, OwnStates, testing::Values(13, 14, 15), test::name_of_row);
INSTANTIATE_TEST_SUITE_P(FreeThreaded, OwnStates, testing::Values(113, 114, 115),
                         test::name_of_row);

/// Before, the state that an interpreter was made with is run by any thread.
class LentState : public ThreadOwnersOf {
  protected:
    static constexpr std::uintptr_t kMakersId = 0x9000;

    void SetUp() override {
        ThreadOwnersOf::SetUp();
        list(kMain, {{0, 5, kThreadId}, {3, 1, kMakersId}});
        list(kSub, {{1, 1, kMakersId}});
        walk(kMain);
        walk(kSub);
        lent_ = threads_.find(state(1));
        ASSERT_NE(lent_, nullptr);
        run(1, 0);
        ASSERT_EQ(lent_->runs_on, kThreadId);
        name(*lent_, "former");
    }
    /// The thread that ran with the state ends, and another one has its number.
    void replace_thread() { list(kMain, {{0, 6, kThreadId}, {3, 1, kMakersId}}); }

    TrackedThread* lent_ = nullptr;
};

TEST_P(LentState, IsNotOfTheFormerThreadOfThatNumber) {
    EXPECT_FALSE(owners_.is_of_former(*lent_));
    replace_thread();
    EXPECT_TRUE(owners_.is_of_former(*lent_));
    EXPECT_TRUE(roster_.walk_changed_lists());
    EXPECT_FALSE(owners_.is_of_former(*lent_));
    EXPECT_EQ(lent_->name_view(), "");
}

TEST_P(LentState, LosesTheNameOfAThreadThatHasLeftItAndEnds) {
    owners_.note_frames(*lent_, 0);
    replace_thread();
    walk(kMain);
    run(1, 0);
    EXPECT_EQ(lent_->runs_on, kThreadId);
    EXPECT_EQ(lent_->name_view(), "");
}

INSTANTIATE_TEST_SUITE_P(Versions, LentState, testing::Values(8, 9, 10), test::name_of_row);

}  // namespace
}  // namespace echion::sampling
