#include "agent/cpu_share.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

namespace echion::agent {
namespace {

constexpr std::int64_t kInterval = 1'000'000;

/// The share of the CPU that ticks of `work_ns` take which would come each `interval_ns`.
double share_of_ticks(std::int64_t interval_ns, std::int64_t work_ns) {
    std::int64_t now_ns = 5;
    std::int64_t due_ns = now_ns;
    std::int64_t worked_ns = 0;
    CpuShare share(interval_ns, now_ns);
    for (int i = 0; i < 10'000; ++i) {
        now_ns = due_ns = std::max(due_ns + interval_ns, now_ns);
        const std::int64_t begin_ns = now_ns;
        now_ns += work_ns;
        worked_ns += work_ns;
        if (const std::int64_t rest_ns = share.find_rest_ns(begin_ns, now_ns); rest_ns != 0) {
            now_ns += rest_ns;
            share.end_rest(now_ns);
        }
    }
    return static_cast<double>(worked_ns) / static_cast<double>(now_ns);
}

TEST(CpuShare, AsksForNothingWhereTicksAreShort) {
    CpuShare share(kInterval, 0);
    for (std::int64_t at = kInterval; at < 1000 * kInterval; at += kInterval) {
        ASSERT_EQ(share.find_rest_ns(at, at + kInterval / 2), 0);
    }
}

TEST(CpuShare, LeavesHalfHoweverCloseTicksCome) {
    for (const std::int64_t interval :
         {std::int64_t{30'000}, kInterval, std::int64_t{10'000'000}}) {
        for (const double part : {0.1, 0.4, 0.6, 0.9, 1.1, 3.0, 20.0}) {
            const auto work = static_cast<std::int64_t>(part * static_cast<double>(interval));
            if (work <= CpuShare::kLongestRestNs) {
                EXPECT_LE(share_of_ticks(interval, work), 0.51) << interval << " " << part;
            }
        }
    }
}

TEST(CpuShare, CountsSleepBetweenTicksAsRest) {
    CpuShare share(kInterval, 0);
    EXPECT_EQ(share.find_rest_ns(10, 10 + kInterval / 2), 0);
    // The first half is paid back by then.
    EXPECT_EQ(share.find_rest_ns(2 * kInterval, 2 * kInterval + kInterval / 2), 0);
    // It comes at once: both are owed.
    const std::int64_t begin = 2 * kInterval + kInterval / 2;
    EXPECT_EQ(share.find_rest_ns(begin, begin + kInterval / 2), kInterval);
}

TEST(CpuShare, DoesNotRestForLong) {
    CpuShare share(kInterval, 0);
    EXPECT_EQ(share.find_rest_ns(0, 100 * kInterval), CpuShare::kLongestRestNs);
    share.end_rest(110 * kInterval);
    EXPECT_EQ(share.find_rest_ns(110 * kInterval, 110 * kInterval + 1), 0);
}

}  // namespace
}  // namespace echion::agent
