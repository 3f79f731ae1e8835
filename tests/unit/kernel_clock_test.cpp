#include "cli/kernel_clock.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace echion::cli {
namespace {

TEST(KernelClockTest, AProcessWithoutAnOffsetHasTheKernelsClock) {
    EXPECT_EQ(parse_monotonic_offset_s("monotonic           0         0\n"
                                       "boottime            0         0\n"),
              0);
}

TEST(KernelClockTest, AnOffsetIsNeverRoundedToNone) {
    EXPECT_EQ(parse_monotonic_offset_s("monotonic 7 0\nboottime 3 0\n"), 7);
    EXPECT_EQ(parse_monotonic_offset_s("boottime 3 0\nmonotonic -1139 0"), -1139);
    EXPECT_EQ(parse_monotonic_offset_s("monotonic 0 1\n"), 1);
    EXPECT_EQ(parse_monotonic_offset_s("monotonic -1 999999999\n"), -1) << "a nanosecond behind";
}

TEST(KernelClockTest, TextWithoutALineForTheClockSaysNothing) {
    for (const char* text : {"", "\n", "boottime 1 0\n", "monotonic\n", "monotonic x 0\n",
                             "monotonic 1", " monotonicity 1 1\n"}) {
        EXPECT_EQ(parse_monotonic_offset_s(text), std::nullopt) << text;
    }
}

TEST(KernelClockTest, AProcessThatHasEndedHasNoOtherClock) {
    EXPECT_EQ(why_other_clock(1 << 30), "");  // above the kernel's largest number
}

}  // namespace
}  // namespace echion::cli
