#include "cpython/frame_walker.h"

#include <gtest/gtest.h>

#include <array>
#include <span>
#include <string>
#include <vector>

#include "cpython/runtime_view.h"
#include "rows.h"
#include "test_memory.h"

namespace echion::cpython {
namespace {

constexpr std::size_t kArena = 64 * kPageBytes;
constexpr std::size_t kStackPages = 8;
constexpr std::size_t kRoom = 64;
constexpr Address kStack(0x200000);
constexpr Address kHeap(0x400000);
constexpr Address kCode(0x10000);

/// A stack of frames as one version of CPython keeps it.
class FrameWalkerOf : public testing::TestWithParam<int> {
  protected:
    void SetUp() override {
        auto made = PageBatch::make(kArena);
        ASSERT_TRUE(made.has_value());
        batch_ = std::move(*made);
        memory_.map(kStack, kStackPages * kPageBytes);
        memory_.map(kHeap, kPageBytes);
    }

    static Address code(std::size_t number) { return kCode + 0x100 * number; }
    Address frame_at(std::size_t number) const { return kStack + spacing() * number; }
    std::size_t spacing() const {
        return (static_cast<std::size_t>(layout_.frame.size) + 2 * sizeof(void*)) &
               ~(sizeof(void*) - 1);
    }

    void write_field(Address frame, Offset offset, Address value) {
        ASSERT_TRUE(memory_.write(frame + static_cast<std::size_t>(offset), value));
    }
    /// The instruction field for a place `offset_bytes` into the code.
    void write_instruction(Address frame, Address of_code, std::int32_t offset_bytes) {
        const auto at = frame + static_cast<std::size_t>(layout_.frame.instruction);
        switch (layout_.frame.instruction_kind) {
            case InstructionKind::kByteIndex:
                ASSERT_TRUE(memory_.write(at, offset_bytes));
                break;
            case InstructionKind::kCodeUnitIndex:
                ASSERT_TRUE(memory_.write(at, offset_bytes / 2));
                break;
            case InstructionKind::kCodePointer:
                ASSERT_TRUE(memory_.write(
                    at, of_code + static_cast<std::size_t>(layout_.code.code_adaptive) +
                            static_cast<std::size_t>(offset_bytes)));
                break;
        }
    }
    void write_owner(Address frame, int owner) {
        if (has(layout_.frame.owner)) {
            ASSERT_TRUE(memory_.write(frame + static_cast<std::size_t>(layout_.frame.owner),
                                      static_cast<std::int8_t>(owner)));
        }
    }
    /// A frame of code `number`, at byte 2 × number of it.
    void write_frame(Address frame, Address previous, std::size_t number, int owner = 0) {
        write_field(frame, layout_.frame.previous, previous);
        write_field(frame, layout_.frame.code, code(number));
        write_instruction(frame, code(number), static_cast<std::int32_t>(2 * number));
        write_owner(frame, owner);
    }
    /// Frames 0 (newest) to count - 1 (root); returns the newest.
    Address write_chain(std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            write_frame(frame_at(i), i + 1 < count ? frame_at(i + 1) : Address(), i);
        }
        return frame_at(0);
    }
    void write_entry_frame(Address frame, Address previous) {
        write_field(frame, layout_.frame.previous, previous);
        write_field(frame, layout_.frame.code, Address(0xdeadbe8));  // None, or nothing of use
        write_owner(frame, layout_.frame.owner_without_code);
    }

    Walk walk(Address head, std::size_t room = kRoom) {
        frames_.assign(room, {});
        FrameWalker walker(layout_, memory_, batch_);
        const Walk result = walker.walk(head, pages_, ++walk_number_, frames_);
        EXPECT_LE(result.count, room);
        frames_.resize(result.count);
        return result;
    }
    static std::vector<RawFrame> expected(std::size_t count) {
        std::vector<RawFrame> result;
        for (std::size_t i = 0; i < count; ++i) {
            result.push_back({code(i), static_cast<std::int32_t>(2 * i)});
        }
        return result;
    }

    const Layout& layout_ = test::row_of(GetParam());
    test::TestMemory memory_;
    PageBatch batch_;
    PageSet pages_{};
    std::vector<RawFrame> frames_;
    std::uint32_t walk_number_ = 0;
};

INSTANTIATE_TEST_SUITE_P(Python3, FrameWalkerOf, testing::Range(8, 16), test::name_of_row);
// Later ones have to find the bytecode of each frame: OwnBytecodeOf.
INSTANTIATE_TEST_SUITE_P(FreeThreaded, FrameWalkerOf, testing::Values(113), test::name_of_row);

/// Versions whose evaluation loop leaves a frame without code at its entry from C.
class EntryFramesOf : public FrameWalkerOf {};

INSTANTIATE_TEST_SUITE_P(Python3, EntryFramesOf, testing::Range(12, 16), test::name_of_row);

/// Versions in which each thread runs a copy of the bytecode that is its own.
class OwnBytecodeOf : public FrameWalkerOf {
  protected:
    static constexpr std::int32_t kIndex = 2;
    static constexpr std::uintptr_t kUnits = 16;  // of code

    /// One frame at byte 10 of the copy `index`, of an array with room for `room` copies.
    Address write_frame_of_copy(std::int32_t index, std::uintptr_t room) {
        const Address object = kHeap;
        const Address array = kHeap + 0x400;
        const Address bytecode = kHeap + 0x800;
        write_field(object, layout_.code.tlbc, array);
        write_field(object, layout_.object.ob_size, Address(kUnits));
        EXPECT_TRUE(memory_.write(array, room));
        write_field(array, layout_.code.tlbc_entries, object + at(layout_.code.code_adaptive));
        entry_ = array + at(layout_.code.tlbc_entries) + kIndex * sizeof(void*);
        EXPECT_TRUE(memory_.write(entry_, bytecode));
        const Address frame = frame_at(4);  // on one page with what is in front of it
        write_frame(frame, Address(), 0);
        write_field(frame, layout_.frame.code, object);
        write_field(frame, layout_.frame.instruction, bytecode + 10);
        EXPECT_TRUE(memory_.write(frame + at(layout_.frame.tlbc_index), index));
        code_ = object;
        return frame;
    }

    Address code_;
    Address entry_;
};

INSTANTIATE_TEST_SUITE_P(FreeThreaded, OwnBytecodeOf, testing::Values(114, 115), test::name_of_row);

TEST_P(OwnBytecodeOf, IsFollowedBackToTheCodeObject) {
    const Address frame = write_frame_of_copy(kIndex, 4);
    EXPECT_FALSE(walk(frame).broken);
    EXPECT_EQ(frames_, (std::vector<RawFrame>{{code_, 10}}));
    // What it took is known by the next walk, which reads nothing besides.
    batch_.reset();
    batch_.add_pages(pages_);
    EXPECT_EQ(batch_.run(memory_), 0U);
    const std::size_t calls = memory_.calls;
    EXPECT_FALSE(walk(frame).broken);
    EXPECT_EQ(frames_, (std::vector<RawFrame>{{code_, 10}}));
    EXPECT_EQ(memory_.calls, calls);
}

TEST_P(OwnBytecodeOf, TheFirstIsThatOfTheCodeObject) {
    const Address frame = write_frame_of_copy(0, 4);
    write_field(frame, layout_.frame.instruction, code_ + at(layout_.code.code_adaptive) + 6);
    EXPECT_FALSE(walk(frame).broken);
    EXPECT_EQ(frames_, (std::vector<RawFrame>{{code_, 6}}));
}

/// As a thread has them that stands still between the two stores which change them.
TEST_P(OwnBytecodeOf, AnInstructionOfAnotherCopyBreaksTheChain) {
    const Address frame = write_frame_of_copy(0, 4);  // its instruction is in the copy kIndex
    EXPECT_TRUE(walk(frame).broken);
    write_frame_of_copy(kIndex, 4);
    write_field(frame, layout_.frame.instruction, code_ + at(layout_.code.code_adaptive) + 6);
    batch_.reset();
    EXPECT_TRUE(walk(frame).broken);
    const Address bytecode = kHeap + 0x800;
    for (const std::intptr_t offset : {-3, 2 * static_cast<int>(kUnits)}) {
        write_field(frame, layout_.frame.instruction, bytecode + static_cast<std::size_t>(offset));
        batch_.reset();
        EXPECT_TRUE(walk(frame).broken) << offset;
    }
    for (const std::intptr_t offset : {-2, 2 * static_cast<int>(kUnits) - 2}) {
        write_field(frame, layout_.frame.instruction, bytecode + static_cast<std::size_t>(offset));
        batch_.reset();
        EXPECT_FALSE(walk(frame).broken) << offset;
    }
}

TEST_P(OwnBytecodeOf, ACopyThatIsNotThereBreaksTheChain) {
    EXPECT_TRUE(walk(write_frame_of_copy(kIndex, kIndex)).broken);
    EXPECT_TRUE(walk(write_frame_of_copy(-1, 4)).broken);
    const Address frame = write_frame_of_copy(kIndex, 4);
    ASSERT_TRUE(memory_.write(entry_, Address()));
    batch_.reset();
    EXPECT_TRUE(walk(frame).broken);
    write_field(code_, layout_.code.tlbc, Address(0x13));
    batch_.reset();
    EXPECT_TRUE(walk(frame).broken);
}

TEST_P(FrameWalkerOf, FollowsTheChainFromTheNewestToTheRoot) {
    const Walk result = walk(write_chain(10));
    EXPECT_FALSE(result.broken || result.truncated);
    EXPECT_EQ(frames_, expected(10));
}

TEST_P(FrameWalkerOf, AThreadWithoutFramesHasAnEmptyStack) {
    const Walk result = walk(Address());
    EXPECT_EQ(result.count, 0U);
    EXPECT_FALSE(result.broken || result.truncated);
    EXPECT_EQ(memory_.calls, 0U);
}

TEST_P(EntryFramesOf, LeavesOutTheEntryFramesOfC) {
    write_frame(frame_at(0), frame_at(1), 0);
    write_entry_frame(frame_at(1), frame_at(2));
    write_frame(frame_at(2), frame_at(3), 1);
    write_entry_frame(frame_at(3), Address());
    const Walk result = walk(frame_at(0));
    EXPECT_FALSE(result.broken || result.truncated);
    EXPECT_EQ(frames_, expected(2));
}

TEST_P(FrameWalkerOf, FollowsGeneratorsFramesOutsideTheStack) {
    write_frame(frame_at(0), kHeap + 0x100, 0);
    write_frame(kHeap + 0x100, frame_at(1), 1, 1);  // FRAME_OWNED_BY_GENERATOR
    write_frame(frame_at(1), Address(), 2);
    const Walk result = walk(frame_at(0));
    EXPECT_FALSE(result.broken);
    EXPECT_EQ(frames_, expected(3));
    ASSERT_EQ(pages_.size(), 2U);
    EXPECT_EQ(pages_.page(0), kStack);
    EXPECT_EQ(pages_.page(1), kHeap);
}

TEST_P(FrameWalkerOf, AWalkOverPagesFetchedAheadReadsNothing) {
    const Address head = write_chain(100);
    walk(head, 200);
    EXPECT_EQ(frames_, expected(100));
    EXPECT_GT(pages_.size(), 1U) << "it should cross pages";
    batch_.reset();
    ASSERT_TRUE(batch_.add_pages(pages_));
    ASSERT_EQ(batch_.run(memory_), 0U);
    const std::size_t calls = memory_.calls;
    walk(head, 200);
    EXPECT_EQ(frames_, expected(100));
    EXPECT_EQ(memory_.calls, calls);
}

TEST_P(FrameWalkerOf, ReadsAFrameThatLiesOnTwoPages) {
    const Address across = kStack + kPageBytes - 4 * sizeof(void*);
    write_frame(across, frame_at(0), 0);
    write_frame(frame_at(0), Address(), 1);
    const Walk result = walk(across);
    EXPECT_FALSE(result.broken);
    EXPECT_EQ(frames_, expected(2));
    EXPECT_EQ(pages_.size(), 2U);
}

TEST_P(FrameWalkerOf, TellsARootThatIsNotTheFirstOfItsStack) {
    const Address first = kStack + 2 * kPageBytes + kStackHeadBytes;
    write_frame(first + spacing(), first, 0);
    write_frame(first, Address(), 1);
    const std::uintptr_t size_bytes = 4 * kStackChunkBytes;
    ASSERT_TRUE(memory_.write(first - kStackHeadBytes, Address()));
    ASSERT_TRUE(memory_.write(first - kStackHeadBytes + sizeof(void*), size_bytes));
    EXPECT_FALSE(walk(first + spacing()).ends_midway);
    EXPECT_EQ(frames_, expected(2));

    const bool has_data_stack = has(layout_.frame.owner);
    write_frame(first + spacing(), Address(), 0);
    batch_.reset();
    EXPECT_EQ(walk(first + spacing()).ends_midway, has_data_stack);
    // A generator's is on no stack.
    write_frame(kHeap + 0x100, Address(), 0, 1);
    EXPECT_FALSE(walk(kHeap + 0x100).ends_midway);
    // A chunk that is not the first.
    ASSERT_TRUE(memory_.write(first - kStackHeadBytes, kHeap));
    write_frame(first + spacing(), first, 0);
    batch_.reset();
    EXPECT_EQ(walk(first + spacing()).ends_midway, has_data_stack);
}

TEST_P(FrameWalkerOf, AFrameThatIsTooLargeForTheFirstChunkIsTheFirstOfItsStackInTheSecond) {
    const Address chunk = kStack + 2 * kPageBytes;
    const Address before = kStack + 5 * kPageBytes;
    const Address first = chunk + kChunkHeadBytes;
    write_frame(first, Address(), 0);
    const auto write_head = [&](Address at, Address previous, std::uintptr_t top) {
        ASSERT_TRUE(memory_.write(at, previous));
        ASSERT_TRUE(memory_.write(at + sizeof(void*), std::uintptr_t{kStackChunkBytes}));
        ASSERT_TRUE(memory_.write(at + 2 * sizeof(void*), top));
        batch_.reset();
    };
    write_head(chunk, before, 0);
    write_head(before, Address(), 1);
    EXPECT_FALSE(walk(first).ends_midway);
    const bool has_data_stack = has(layout_.frame.owner);
    write_head(before, Address(), 40);  // frames are in the first
    EXPECT_EQ(walk(first).ends_midway, has_data_stack);
    write_head(before, kStack, 1);  // it is not the first
    EXPECT_EQ(walk(first).ends_midway, has_data_stack);
    write_head(chunk, Address(0x10), 0);
    EXPECT_EQ(walk(first).ends_midway, has_data_stack);
    // Nothing in front of the frame can be read.
    write_frame(kStack, Address(), 0);
    batch_.reset();
    EXPECT_EQ(walk(kStack).ends_midway, has_data_stack);
}

TEST_P(EntryFramesOf, AGeneratorThatCRunsIsTheRoot) {
    write_frame(kHeap + 0x100, frame_at(0), 0, 1);
    write_entry_frame(frame_at(0), Address());
    const Walk result = walk(kHeap + 0x100);
    EXPECT_FALSE(result.ends_midway || result.ends_at_generator);
}

TEST(StackHead, HasASizeThatAChunkCanHave) {
    std::array<std::uintptr_t, 4> words{};
    const std::span bytes(std::as_bytes(std::span(words)));
    for (const std::uintptr_t size : {kStackChunkBytes, kStackChunkBytes << 9}) {
        words = {0, size, 77, 88};
        EXPECT_TRUE(is_stack_head(bytes)) << size;
        words[0] = 0x7f001000;
        EXPECT_FALSE(is_stack_head(bytes)) << size;
    }
    for (const std::uintptr_t size :
         {std::uintptr_t{0}, std::uintptr_t{1}, kStackChunkBytes / 2, 3 * kStackChunkBytes}) {
        words = {0, size, 77, 88};
        EXPECT_FALSE(is_stack_head(bytes)) << size;
    }
}

TEST_P(FrameWalkerOf, ACycleEndsTheWalk) {
    for (const std::size_t length : {1, 2, 3, 7}) {
        write_chain(20);
        write_field(frame_at(19), layout_.frame.previous, frame_at(20 - length));
        const Walk result = walk(frame_at(0), 10'000);
        EXPECT_TRUE(result.broken) << length;
        EXPECT_EQ(result.why, ErrorKind::kCycle) << length;
        EXPECT_LT(result.count, 100U) << length;
    }
}

TEST_P(EntryFramesOf, ACycleOfEntryFramesEndsTheWalk) {
    write_entry_frame(frame_at(0), frame_at(1));
    write_entry_frame(frame_at(1), frame_at(0));
    const Walk result = walk(frame_at(0));
    EXPECT_TRUE(result.broken);
    EXPECT_EQ(result.count, 0U);
}

TEST_P(FrameWalkerOf, APointerThatIsNotAlignedBreaksTheWalk) {
    write_chain(3);
    write_field(frame_at(1), layout_.frame.previous, frame_at(2) + 1);
    const Walk result = walk(frame_at(0));
    EXPECT_TRUE(result.broken);
    EXPECT_EQ(result.why, ErrorKind::kInvalid);
    EXPECT_EQ(frames_, expected(2));
    EXPECT_TRUE(walk(frame_at(0) + 2).broken);
}

TEST_P(FrameWalkerOf, APointerToNowhereBreaksTheWalk) {
    for (const Address nowhere :
         {Address(8 * sizeof(void*)), kStack + kStackPages * kPageBytes - sizeof(void*),
          Address(UINTPTR_MAX - (sizeof(void*) - 1)), Address(UINTPTR_MAX / 2 + 1)}) {
        write_chain(3);
        write_field(frame_at(1), layout_.frame.previous, nowhere);
        const Walk result = walk(frame_at(0));
        EXPECT_TRUE(result.broken) << nowhere.value();
        EXPECT_EQ(result.why, ErrorKind::kUnreadable) << nowhere.value();
        EXPECT_EQ(frames_, expected(2));
    }
}

TEST_P(FrameWalkerOf, AFrameWithoutACodeObjectBreaksTheWalk) {
    for (const Address wrong : {Address(), code(1) + 1}) {
        write_chain(3);
        write_field(frame_at(1), layout_.frame.code, wrong);
        EXPECT_TRUE(walk(frame_at(0)).broken);
        EXPECT_EQ(frames_, expected(1));
    }
}

TEST_P(FrameWalkerOf, AStackOfExactlyAsManyFramesIsWhole) {
    const Walk result = walk(write_chain(10), 10);
    EXPECT_FALSE(result.truncated);
    EXPECT_EQ(frames_, expected(10));
}

TEST_P(EntryFramesOf, AnEntryFrameAtTheRootDoesNotMakeAWholeStackACutOne) {
    write_chain(10);
    write_field(frame_at(9), layout_.frame.previous, frame_at(10));
    write_entry_frame(frame_at(10), Address());
    const Walk result = walk(frame_at(0), 10);
    EXPECT_FALSE(result.truncated);
    EXPECT_EQ(frames_, expected(10));
}

TEST_P(FrameWalkerOf, CutsALongerStackAtTheRoot) {
    const Walk result = walk(write_chain(11), 10);
    EXPECT_TRUE(result.truncated);
    EXPECT_FALSE(result.broken);
    EXPECT_EQ(frames_, expected(10));
}

TEST_P(FrameWalkerOf, WalksAStackThatIsLargerThanTheArena) {
    auto small = PageBatch::make(2 * kPageBytes);
    ASSERT_TRUE(small.has_value());
    batch_ = std::move(*small);
    const std::size_t count = kStackPages * kPageBytes / spacing() - 1;
    const Walk result = walk(write_chain(count), count);
    EXPECT_FALSE(result.broken || result.truncated);
    EXPECT_EQ(frames_, expected(count));
}

TEST_P(FrameWalkerOf, KnowsWhereTheFrameIs) {
    write_chain(1);
    write_instruction(frame_at(0), code(0), 246);
    walk(frame_at(0));
    ASSERT_EQ(frames_.size(), 1U);
    EXPECT_EQ(frames_[0].offset, 246);
}

TEST_P(FrameWalkerOf, AFrameThatHasNotBegunIsInFrontOfItsCode) {
    write_chain(1);
    std::int32_t expected_offset = -1;
    if (layout_.frame.instruction_kind == InstructionKind::kCodePointer) {
        write_instruction(frame_at(0), code(0), -2);
        expected_offset = -2;
    } else {
        memory_.write(frame_at(0) + static_cast<std::size_t>(layout_.frame.instruction),
                      std::int32_t{-1});
    }
    EXPECT_FALSE(walk(frame_at(0)).broken);
    ASSERT_EQ(frames_.size(), 1U);
    EXPECT_EQ(frames_[0].offset, expected_offset);
}

TEST_P(FrameWalkerOf, AnInstructionFarFromItsCodeBreaksTheWalk) {
    write_chain(1);
    for (const std::intptr_t wrong :
         {std::intptr_t{INT32_MAX}, std::intptr_t{INT32_MIN}, std::intptr_t{-3}}) {
        RawFrame frame;
        const std::intptr_t start =
            layout_.frame.instruction_kind == InstructionKind::kCodePointer
                ? static_cast<std::intptr_t>(
                      (code(0) + static_cast<std::size_t>(layout_.code.code_adaptive)).value())
                : 0;
        EXPECT_FALSE(make_raw_frame(layout_, code(0), start + wrong, &frame)) << wrong;
    }
}

TEST(MakeRawFrame, ReadsTheInstructionAsItsVersionMeansIt) {
    RawFrame frame;
    ASSERT_TRUE(make_raw_frame(*find_layout({3, 8, 0}), kCode, 6, &frame));
    EXPECT_EQ(frame.offset, 6);
    ASSERT_TRUE(make_raw_frame(*find_layout({3, 10, 0}), kCode, 6, &frame));
    EXPECT_EQ(frame.offset, 12);
    const Layout& layout = *find_layout({3, 11, 0});
    const Address start = kCode + static_cast<std::size_t>(layout.code.code_adaptive);
    ASSERT_TRUE(
        make_raw_frame(layout, kCode, static_cast<std::intptr_t>(start.value()) + 6, &frame));
    EXPECT_EQ(frame.offset, 6);
}

// ---- The runtime's lists ----

class RuntimeViewOf : public testing::TestWithParam<int> {
  protected:
    void SetUp() override {
        view_.layout = &layout_;
        view_.runtime = memory_.allocate(static_cast<std::size_t>(layout_.runtime.size));
    }
    static std::size_t at(Offset offset) { return static_cast<std::size_t>(offset); }

    Address make_interpreter(std::int64_t id, Address next) {
        const Address made = memory_.allocate(at(layout_.interpreter.size) + sizeof(void*));
        memory_.write(made + at(layout_.interpreter.id), id);
        memory_.write(made + at(layout_.interpreter.next), next);
        return made;
    }
    void set_head(Address head) {
        memory_.write(view_.runtime + at(layout_.runtime.interpreters_head), head);
    }

    const Layout& layout_ = test::row_of(GetParam());
    test::TestMemory memory_;
    RuntimeView view_;
    std::vector<InterpreterHead> heads_ = std::vector<InterpreterHead>(kMaxInterpreters);
};

INSTANTIATE_TEST_SUITE_P(Python3, RuntimeViewOf, testing::Range(8, 16), test::name_of_row);
INSTANTIATE_TEST_SUITE_P(FreeThreaded, RuntimeViewOf, testing::Values(113, 114, 115),
                         test::name_of_row);

TEST_P(RuntimeViewOf, ListsTheInterpretersWithTheirGils) {
    const Address main = make_interpreter(0, Address());
    const Address other = make_interpreter(3, main);
    set_head(other);
    const Address gil(0x7770);
    if (has(layout_.interpreter.ceval_gil)) {
        memory_.write(other + at(layout_.interpreter.ceval_gil), gil);
    }
    const auto count = read_interpreters(memory_, view_, heads_);
    ASSERT_TRUE(count.has_value());
    ASSERT_EQ(*count, 2U);
    EXPECT_EQ(heads_[0].interpreter, other);
    EXPECT_EQ(heads_[0].id, 3);
    EXPECT_EQ(heads_[1].interpreter, main);
    EXPECT_EQ(heads_[0].gil, has(layout_.interpreter.ceval_gil)
                                 ? gil
                                 : view_.runtime + at(layout_.runtime.ceval_gil));
}

TEST_P(RuntimeViewOf, AListOfInterpretersThatNeverEndsIsDamage) {
    const Address one = make_interpreter(0, Address());
    const Address two = make_interpreter(1, one);
    memory_.write(one + at(layout_.interpreter.next), two);
    set_head(one);
    const auto count = read_interpreters(memory_, view_, heads_);
    ASSERT_FALSE(count.has_value());
    EXPECT_EQ(count.error().kind, ErrorKind::kBoundExceeded);
}

TEST_P(RuntimeViewOf, AListThatLeadsNowhereIsUnreadable) {
    set_head(make_interpreter(0, Address(0x40)));
    const auto count = read_interpreters(memory_, view_, heads_);
    ASSERT_FALSE(count.has_value());
    EXPECT_EQ(count.error().kind, ErrorKind::kUnreadable);
}

TEST_P(RuntimeViewOf, ARuntimeWithoutInterpretersIsNotReady) {
    EXPECT_EQ(read_interpreters(memory_, view_, heads_).error().kind, ErrorKind::kNotReady);
    EXPECT_EQ(check_ready(memory_, view_).error().kind, ErrorKind::kNotReady);
    memory_.write(view_.runtime + at(layout_.runtime.initialized), std::int32_t{1});
    EXPECT_EQ(check_ready(memory_, view_).error().kind, ErrorKind::kNotReady);
    memory_.write(view_.runtime + at(layout_.runtime.interpreters_main),
                  make_interpreter(0, Address()));
    EXPECT_TRUE(check_ready(memory_, view_));
}

TEST_P(RuntimeViewOf, ReadsTheFieldsOfAThreadState) {
    const ThreadStateLayout& fields = layout_.thread_state;
    const Address state = memory_.allocate(at(fields.size));
    memory_.write(state + at(fields.prev), Address(0x100));
    memory_.write(state + at(fields.next), Address(0x200));
    memory_.write(state + at(fields.interp), Address(0x300));
    memory_.write(state + at(fields.thread_id), std::uintptr_t{0x7f0400});
    memory_.write(state + at(fields.id), std::uint64_t{42});
    const Offset newest = has(fields.cframe) ? fields.cframe : fields.frame;
    memory_.write(state + at(newest), Address(0x500));
    if (has(fields.native_thread_id)) {
        memory_.write(state + at(fields.native_thread_id), std::uintptr_t{4321});
    }
    const auto head = read_thread_head(memory_, view_, state);
    ASSERT_TRUE(head.has_value());
    EXPECT_EQ(head->prev, Address(0x100));
    EXPECT_EQ(head->next, Address(0x200));
    EXPECT_EQ(head->interpreter, Address(0x300));
    EXPECT_EQ(head->thread_id, 0x7f0400U);
    EXPECT_EQ(head->id, 42U);
    EXPECT_EQ(has(fields.cframe) ? head->cframe : head->frame, Address(0x500));
    EXPECT_EQ(head->native_id, has(fields.native_thread_id) ? 4321U : 0U);
    EXPECT_FALSE(read_thread_head(memory_, view_, state + 8)) << "it ends where the state ends";
}

TEST_P(RuntimeViewOf, ReadsWhoHoldsTheGil) {
    const Address gil = memory_.allocate(at(layout_.gil.size));
    memory_.write(gil + at(layout_.gil.last_holder), Address(0x880));
    memory_.write(gil + at(layout_.gil.locked), std::int32_t{1});
    memory_.write(gil + at(layout_.gil.switch_number), std::uintptr_t{99});
    Address current(0x880);
    if (const Address noted = current_state_address(view_)) {
        current = Address(0x990);  // the thread has gone on with another state since
        memory_.write(noted, current);
    }
    const auto state = read_gil(memory_, view_, gil);
    ASSERT_TRUE(state.has_value());
    EXPECT_EQ(*state, (GilState{Address(0x880), 1, 99, current}));
    EXPECT_EQ(state->holder(), current);
    EXPECT_FALSE(read_gil(memory_, view_, Address()));

    memory_.write(gil + at(layout_.gil.locked), std::int32_t{0});
    if (const Address noted = current_state_address(view_)) {
        memory_.write(noted, Address());
    }
    const auto free = read_gil(memory_, view_, gil);
    ASSERT_TRUE(free.has_value());
    EXPECT_EQ(free->current, Address());
    EXPECT_EQ(free->holder(), Address(0x880));
}

}  // namespace
}  // namespace echion::cpython
