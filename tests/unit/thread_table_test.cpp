#include "sampling/thread_table.h"

#include <gtest/gtest.h>

#include <set>

namespace echion::sampling {
namespace {

constexpr std::size_t kFrames = 100;

Address state(std::size_t number) { return Address(0x10000 + 0x200 * number); }

ThreadTable make_table(std::size_t max_frames = kFrames) {
    auto table = ThreadTable::make(max_frames);
    EXPECT_TRUE(table.has_value());
    return std::move(*table);
}

TEST(ThreadTable, FindsAThreadByItsState) {
    ThreadTable table = make_table();
    EXPECT_EQ(table.find(state(1)), nullptr);
    EXPECT_EQ(table.find(Address()), nullptr);
    TrackedThread* one = table.add(state(1));
    TrackedThread* two = table.add(state(2));
    ASSERT_NE(one, nullptr);
    ASSERT_NE(two, nullptr);
    EXPECT_EQ(table.find(state(1)), one);
    EXPECT_EQ(table.find(state(2)), two);
    EXPECT_EQ(table.find(Address()), nullptr);
    EXPECT_EQ(table.size(), 2U);
    EXPECT_NE(one->id, two->id);
    EXPECT_TRUE(one->stack.must_resend);
    EXPECT_EQ(one->slot, TrackedThread::kNoSlot);
}

TEST(ThreadTable, ThePlaceOfAThreadThatHasGoneIsTakenWithoutWhatWasThere) {
    ThreadTable table = make_table();
    TrackedThread* one = table.add(state(1));
    table.add(state(2));
    one->is_announced = true;
    one->stack.frame_count = 7;
    one->cpu_ns = 99;
    one->stack.pages.touch(Address(0x5000), Address(0x5100), 1);
    const std::uint32_t id = one->id;
    table.remove(*one);
    EXPECT_EQ(table.find(state(1)), nullptr);
    EXPECT_EQ(table.size(), 1U);
    TrackedThread* three = table.add(state(3));
    ASSERT_NE(three, nullptr);
    EXPECT_EQ(three->id, id) << "the lowest free number";
    EXPECT_FALSE(three->is_announced);
    EXPECT_EQ(three->stack.frame_count, 0U);
    EXPECT_EQ(three->cpu_ns, 0);
    EXPECT_EQ(three->stack.pages.size(), 0U);
    std::size_t count = 0;
    for (const TrackedThread& thread : table.all()) {
        EXPECT_TRUE(&thread == three || thread.state == state(2));
        ++count;
    }
    EXPECT_EQ(count, 2U);
}

TEST(ThreadTable, AThreadThatHasLeftItsStateMakesRoomForTheNextInItsPlace) {
    ThreadTable table = make_table();
    TrackedThread* old = table.add(state(1));
    table.forget_state(*old);
    EXPECT_EQ(table.find(state(1)), nullptr);
    EXPECT_TRUE(old->in_use);
    TrackedThread* next = table.add(state(1));
    ASSERT_NE(next, nullptr);
    EXPECT_NE(next, old);
    table.remove(*old);
    EXPECT_EQ(table.find(state(1)), next) << "the state is the new thread's by now";
}

TEST(ThreadTable, EachThreadHasRoomForItsOwnFrames) {
    ThreadTable table = make_table();
    TrackedThread* one = table.add(state(1));
    TrackedThread* two = table.add(state(2));
    for (std::size_t i = 0; i < kFrames; ++i) {
        one->stack.codes[i] = Address(1);
        one->stack.refs[i] = {1, 1};
        two->stack.codes[i] = Address(2);
        two->stack.refs[i] = {2, 2};
    }
    for (std::size_t i = 0; i < kFrames; ++i) {
        ASSERT_EQ(one->stack.codes[i], Address(1));
        ASSERT_EQ(one->stack.refs[i], (stream::FrameRef{1, 1}));
        ASSERT_EQ(two->stack.codes[i], Address(2));
    }
    EXPECT_EQ(one->id, 0U);
    EXPECT_EQ(two->state, state(2));
}

TEST(ThreadTable, RefusesMoreThanItHasPlacesForAndGoesOn) {
    // With so many frames a thread takes megabytes of address space, and few fit.
    ThreadTable table = make_table(stream::kMaxFrames);
    std::size_t count = 0;
    while (table.add(state(count)) != nullptr) {
        ASSERT_LT(++count, 10'000U);
    }
    EXPECT_GT(count, 0U);
    EXPECT_EQ(table.size(), count);
    EXPECT_EQ(table.find(state(count)), nullptr);
    table.remove(*table.find(state(0)));
    EXPECT_NE(table.add(state(count)), nullptr);
    EXPECT_EQ(table.add(state(count + 1)), nullptr);
}

}  // namespace
}  // namespace echion::sampling
