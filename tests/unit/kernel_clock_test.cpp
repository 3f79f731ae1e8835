#include "engine/bpf/kernel_clock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/bpf/kernel_time.h"

namespace echion::engine {
namespace {

TEST(KernelClockTest, AProcessWithoutAnOffsetHasTheKernelsClock) {
    EXPECT_EQ(parse_monotonic_offset_ns("monotonic           0         0\n"
                                        "boottime            0         0\n"),
              0);
}

TEST(KernelClockTest, AnOffsetIsOfSecondsAndWhatIsBeyondThem) {
    EXPECT_EQ(parse_monotonic_offset_ns("monotonic 7 0\nboottime 3 0\n"), 7'000'000'000);
    EXPECT_EQ(parse_monotonic_offset_ns("boottime 3 0\nmonotonic -1139 0"), -1'139'000'000'000);
    EXPECT_EQ(parse_monotonic_offset_ns("monotonic 0 1\n"), 1);
    EXPECT_EQ(parse_monotonic_offset_ns("monotonic -1 999999999\n"), -1);
}

TEST(KernelClockTest, WhatTheKernelWouldNotTakeIsNoOffset) {
    for (const char* text :
         {"monotonic 9223372036 0\n", "monotonic -9223372036 0\n", "monotonic 1 1000000000\n",
          "monotonic 1 -1\n", "monotonic 99999999999999999999 0\n"}) {
        EXPECT_EQ(parse_monotonic_offset_ns(text), std::nullopt) << text;
    }
}

TEST(KernelClockTest, TextWithoutALineForTheClockSaysNothing) {
    for (const char* text : {"", "\n", "boottime 1 0\n", "monotonic\n", "monotonic x 0\n",
                             "monotonic 1", " monotonicity 1 1\n"}) {
        EXPECT_EQ(parse_monotonic_offset_ns(text), std::nullopt) << text;
    }
}

TEST(KernelClockTest, AProcessThatHasEndedHasNoOtherClock) {
    EXPECT_EQ(find_clock_ahead_ns(1 << 30), 0);  // above the kernel's largest number
}

TEST(KernelClockTest, TheProgramsTimesAreOfTheKernelsClock) {
    const auto ahead_ns = find_clock_ahead_ns(getpid());
    ASSERT_TRUE(ahead_ns) << ahead_ns.error();
    const auto now_ns = static_cast<std::uint64_t>(monotonic_ns());
    EXPECT_EQ(to_own_time(now_ns - static_cast<std::uint64_t>(*ahead_ns), *ahead_ns), now_ns);
}

}  // namespace
}  // namespace echion::engine
