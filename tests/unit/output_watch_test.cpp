#include "cli/output_watch.h"

#include <gtest/gtest.h>

namespace echion::cli {
namespace {

constexpr std::int64_t kStart = 1'000'000'000'000;
constexpr std::int64_t kStep = 50'000'000;

TEST(OutputWatch, CountsTheTimeThatRingsWaitForTheOutput) {
    OutputWatch watch;
    watch.look({true, 10, 0}, true, kStart);
    watch.look({true, 10, 0}, true, kStart + kStep);
    watch.look({false, 0, 10}, true, kStart + 3 * kStep);
    watch.look({false, 0, 10}, true, kStart + 9 * kStep);
    EXPECT_EQ(watch.stalled_ns(), 3 * kStep);
    watch.look({true, 10, 10}, false, kStart + 10 * kStep);
    watch.look({true, 10, 10}, false, kStart + 11 * kStep);
    EXPECT_EQ(watch.stalled_ns(), 3 * kStep);
}

TEST(OutputWatch, IsStuckWhenItHasTakenNothingOfWhatWaits) {
    OutputWatch watch;
    std::int64_t now = kStart;
    watch.look({true, 10, 5}, true, now);
    watch.look({true, 10, 5}, true, now += OutputWatch::kPatienceNs - 1);
    EXPECT_FALSE(watch.is_stuck(now));
    watch.look({true, 10, 5}, true, now += kStep);
    EXPECT_TRUE(watch.is_stuck(now));
    watch.look({true, 9, 6}, true, now += kStep);
    EXPECT_FALSE(watch.is_stuck(now));
}

TEST(OutputWatch, IsNotStuckByWhatCameAfterALongTimeWithoutALook) {
    OutputWatch watch;
    watch.look({false, 0, 5}, true, kStart);
    const std::int64_t later = kStart + 10 * OutputWatch::kPatienceNs;
    watch.look({true, 10, 5}, true, later);
    EXPECT_FALSE(watch.is_stuck(later));
    watch.restart(2 * later);
    EXPECT_FALSE(watch.is_stuck(2 * later));
}

TEST(OutputWatch, IsGivenUpOnlyWhenAUserWantsTheEnd) {
    OutputWatch watch;
    std::int64_t now = kStart;
    watch.look({true, 10, 5}, true, now);
    watch.look({true, 10, 5}, true, now += 2 * OutputWatch::kPatienceNs);
    EXPECT_FALSE(watch.is_given_up(now));
    EXPECT_FALSE(watch.hurry(now));
    EXPECT_FALSE(watch.is_given_up(now));
    EXPECT_TRUE(watch.is_given_up(now + OutputWatch::kLastChanceNs));
}

TEST(OutputWatch, TheSecondSignalGivesUpAnOutputThatStillTakesSomething) {
    OutputWatch watch;
    std::int64_t now = kStart;
    watch.look({true, 10, 5}, true, now);
    EXPECT_FALSE(watch.hurry(now));
    watch.look({true, 9, 6}, true, now += OutputWatch::kLastChanceNs);
    EXPECT_FALSE(watch.is_given_up(now));
    EXPECT_TRUE(watch.hurry(now));
    EXPECT_FALSE(watch.hurry(now));
    EXPECT_FALSE(watch.is_given_up(now));
    EXPECT_TRUE(watch.is_given_up(now + OutputWatch::kLastChanceNs));
}

}  // namespace
}  // namespace echion::cli
