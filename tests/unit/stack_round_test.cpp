#include "cpython/stack_round.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "cpython/thread_list.h"
#include "test_memory.h"

namespace echion::cpython {
namespace {

constexpr std::size_t kArenaBytes = std::size_t{1} << 20;
constexpr Address kInterpreter{0x7000};

/// Made-up thread states in the layout of each version.
class StateOf : public testing::TestWithParam<std::size_t> {
  protected:
    void SetUp() override {
        layout_ = known_layouts()[GetParam()];
        view_.layout = &layout_;
        view_.runtime = memory_.allocate(0x4000);
        gil_ = memory_.allocate(at(layout_.gil.size));
        batch_ = PageBatch::make(kArenaBytes).value();
        put_gil(Address(0x1234), 1, 7);
    }

    void put(Address object, Offset field, Address value) {
        if (has(field)) {
            ASSERT_TRUE(memory_.write(object + at(field), value));
        }
    }
    void put_gil(Address holder, std::int32_t locked, std::uintptr_t switches) {
        put(gil_, layout_.gil.last_holder, holder);
        ASSERT_TRUE(memory_.write(gil_ + at(layout_.gil.locked), locked));
        put(gil_, layout_.gil.switch_number, Address(switches));
        put(view_.runtime, layout_.runtime.tstate_current, holder);
    }
    Address make_state(std::uint64_t id, Address frame) {
        const Address state = memory_.allocate(at(layout_.thread_state.size));
        EXPECT_TRUE(memory_.write(state + at(layout_.thread_state.id), id));
        put(state, layout_.thread_state.interp, kInterpreter);
        if (has(layout_.thread_state.cframe)) {
            const Address cframe = memory_.allocate(0x40);
            put(state, layout_.thread_state.cframe, cframe);
            put(cframe, layout_.cframe.current_frame, frame);
        } else {
            put(state, layout_.thread_state.frame, frame);
        }
        return state;
    }
    /// Newest first, as CPython has them.
    std::vector<Address> make_list(std::size_t count) {
        std::vector<Address> states;
        for (std::size_t i = 0; i < count; ++i) {
            states.push_back(make_state(count - i, Address()));
        }
        for (std::size_t i = 0; i + 1 < count; ++i) {
            put(states[i], layout_.thread_state.next, states[i + 1]);
            put(states[i + 1], layout_.thread_state.prev, states[i]);
        }
        return states;
    }

    test::TestMemory memory_;
    Layout layout_{};
    RuntimeView view_{};
    Address gil_;
    PageBatch batch_;
    PageSet no_pages_{};
};

TEST_P(StateOf, HasTheGilBeforeAndAfterTheThreads) {
    const Address state = make_state(5, Address(0xabc0));
    StackRound round(view_, batch_);
    StackRound::Copies copies{};
    round.begin(gil_);
    EXPECT_TRUE(round.add(state, Address(), no_pages_, &copies));
    ASSERT_TRUE(round.end());
    GilState before;
    GilState after;
    EXPECT_FALSE(round.take_gil(&before, &after)) << "nothing has been copied yet";
    EXPECT_FALSE(round.take(copies).is_read);
    ASSERT_EQ(batch_.run(memory_), 0U);
    ASSERT_TRUE(round.take_gil(&before, &after));
    EXPECT_EQ(before, after);
    EXPECT_EQ(before.holder(), Address(0x1234));
    EXPECT_EQ(before.switch_number, 7U);
    const StackHead head = round.take(copies);
    ASSERT_TRUE(head.is_read);
    EXPECT_EQ(head.thread.id, 5U);
}

TEST_P(StateOf, HasTheNewestFrameWhereItWasAskedForByTheRightFrameOfC) {
    const Address state = make_state(5, Address(0xabc0));
    const Address cframe = read_thread_head(memory_, view_, state)->cframe;
    StackRound round(view_, batch_);
    StackRound::Copies unknown{};
    StackRound::Copies known{};
    StackRound::Copies outdated{};
    const Address other = memory_.allocate(0x40);
    round.begin(gil_);
    round.add(state, Address(), no_pages_, &unknown);
    round.add_again(state, cframe, &known);
    round.add_again(state, cframe ? other : cframe, &outdated);
    ASSERT_TRUE(round.end());
    ASSERT_EQ(batch_.run(memory_), 0U);
    EXPECT_TRUE(round.take(known).has_frame);
    EXPECT_EQ(round.take(known).frame, Address(0xabc0));
    const bool is_direct = !cframe;
    EXPECT_EQ(round.take(unknown).has_frame, is_direct);
    EXPECT_EQ(round.take(outdated).has_frame, is_direct) << "the frame of another one";
    StackHead head = round.take(outdated);
    const std::size_t calls = memory_.calls;
    ASSERT_TRUE(round.complete(memory_, &head));
    EXPECT_EQ(head.frame, Address(0xabc0));
    EXPECT_EQ(memory_.calls - calls, is_direct ? 0U : 1U);
    if (cframe) {
        memory_.unmap(cframe);
        StackHead gone = round.take(unknown);
        EXPECT_FALSE(round.complete(memory_, &gone));
    }
}

TEST_P(StateOf, AFullRoundSaysSo) {
    const Address state = make_state(5, Address());
    StackRound round(view_, batch_);
    round.begin(gil_);
    std::size_t added = 0;
    StackRound::Copies copies{};
    while (round.add(state, Address(), no_pages_, &copies)) {
        ASSERT_LT(++added, PageBatch::kMaxRequests);
    }
    EXPECT_GT(added, 0U);
    EXPECT_TRUE(round.end()) << "room for the end is kept";
    while (batch_.add(state, 8) != PageBatch::kNone) {
    }
    EXPECT_FALSE(round.end());
}

TEST_P(StateOf, AStateThatIsGoneIsNotRead) {
    const Address state = make_state(5, Address());
    StackRound round(view_, batch_);
    StackRound::Copies copies{};
    round.begin(gil_);
    round.add(state, Address(), no_pages_, &copies);
    ASSERT_TRUE(round.end());
    memory_.unmap(state);
    EXPECT_EQ(batch_.run(memory_), 1U);
    GilState before;
    GilState after;
    EXPECT_TRUE(round.take_gil(&before, &after));
    EXPECT_FALSE(round.take(copies).is_read);
    EXPECT_FALSE(round.read(memory_, state).is_read);
}

TEST_P(StateOf, AListIsCopiedNewestFirst) {
    const std::vector<Address> states = make_list(3);
    std::array<ListedState, 4> out;
    const ThreadList list = read_thread_list(memory_, view_, kInterpreter, states[0], out);
    EXPECT_EQ(list.end, ListEnd::kWhole);
    ASSERT_EQ(list.count, 3U);
    for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(out[i].state, states[i]);
        EXPECT_EQ(out[i].head.id, 3 - i);
    }
    EXPECT_EQ(read_thread_list(memory_, view_, kInterpreter, Address(), out).count, 0U);
}

TEST_P(StateOf, AListThatDoesNotFitIsFull) {
    const std::vector<Address> states = make_list(3);
    std::array<ListedState, 2> out;
    const ThreadList list = read_thread_list(memory_, view_, kInterpreter, states[0], out);
    EXPECT_EQ(list.end, ListEnd::kFull);
    EXPECT_EQ(list.count, 2U);
}

TEST_P(StateOf, AListThatDoesNotFitTogetherIsTornWhereItDoesNot) {
    std::array<ListedState, 4> out;
    const auto read = [&](const std::vector<Address>& states) {
        return read_thread_list(memory_, view_, kInterpreter, states[0], out);
    };
    std::vector<Address> states = make_list(3);
    put(states[2], layout_.thread_state.next, states[0]);  // in a circle
    EXPECT_EQ(read(states).end, ListEnd::kTorn);
    EXPECT_EQ(read(states).count, 3U);
    states = make_list(3);
    put(states[1], layout_.thread_state.prev, states[2]);
    EXPECT_EQ(read(states).end, ListEnd::kTorn);
    EXPECT_EQ(read(states).count, 1U);
    states = make_list(3);
    put(states[2], layout_.thread_state.interp, Address(0x9000));  // another interpreter's
    EXPECT_EQ(read(states).end, ListEnd::kTorn);
    EXPECT_EQ(read(states).count, 2U);
    states = make_list(3);
    memory_.unmap(states[1]);
    EXPECT_EQ(read(states).end, ListEnd::kTorn);
    EXPECT_EQ(read(states).count, 1U);
}

TEST_P(StateOf, CopiesOfAListThatAreThereAreNotReadAgain) {
    const std::vector<Address> states = make_list(3);
    std::vector<std::byte> copy(at(layout_.thread_state.size));
    ASSERT_TRUE(memory_.read_bytes(states[1], copy.data(), copy.size()));
    const std::size_t calls = memory_.calls;
    std::array<ListedState, 4> out;
    const ThreadList list = read_thread_list(memory_, view_, kInterpreter, states[0], out,
                                             [&](Address state) -> const std::byte* {
                                                 return state == states[1] ? copy.data() : nullptr;
                                             });
    EXPECT_EQ(list.end, ListEnd::kWhole);
    EXPECT_EQ(list.count, 3U);
    EXPECT_EQ(memory_.calls - calls, 2U);
}

INSTANTIATE_TEST_SUITE_P(EachLayout, StateOf,
                         testing::Range(std::size_t{0}, known_layouts().size()),
                         [](const testing::TestParamInfo<std::size_t>& row) {
                             return "python3_" + std::to_string(known_layouts()[row.param].minor);
                         });

}  // namespace
}  // namespace echion::cpython
