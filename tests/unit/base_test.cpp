#include <fcntl.h>
#include <gtest/gtest.h>

#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "memory/address.h"

namespace echion {
namespace {

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

int open_null() { return open("/dev/null", O_RDONLY | O_CLOEXEC); }

TEST(UniqueFd, ClosesAtTheEndOfItsScope) {
    const int fd = open_null();
    ASSERT_GE(fd, 0);
    { const UniqueFd owner(fd); }
    EXPECT_FALSE(is_open(fd));
}

TEST(UniqueFd, MoveHandsOverTheDescriptorAndClosesTheOldOne) {
    const int first = open_null();
    const int second = open_null();
    UniqueFd from(first);
    UniqueFd to(second);
    to = std::move(from);
    EXPECT_EQ(to.get(), first);
    EXPECT_TRUE(is_open(first));
    EXPECT_FALSE(is_open(second));
}

TEST(UniqueFd, ReleasedDescriptorStaysOpen) {
    const int fd = open_null();
    {
        UniqueFd owner(fd);
        EXPECT_EQ(owner.release(), fd);
        EXPECT_FALSE(owner);
    }
    EXPECT_TRUE(is_open(fd));
    close(fd);
}

TEST(Clock, TimespecSplitsSecondsAndNanoseconds) {
    const timespec value = make_timespec(3 * kNanosPerSecond + 7);
    EXPECT_EQ(value.tv_sec, 3);
    EXPECT_EQ(value.tv_nsec, 7);
}

TEST(Clock, MonotonicNeverGoesBack) {
    const std::int64_t before = monotonic_ns();
    EXPECT_GT(before, 0);
    EXPECT_GE(monotonic_ns(), before);
}

TEST(Clock, LongAgoIsLongerAgoThanAnyPeriodAndDoesNotOverflow) {
    constexpr std::int64_t kLastReadingNs = std::int64_t{1} << 62;
    for (const std::int64_t now_ns : {std::int64_t{0}, std::int64_t{1}, kLastReadingNs - 1}) {
        EXPECT_GE(now_ns - kLongAgoNs, 100 * 365 * std::int64_t{86400} * kNanosPerSecond);
    }
}

TEST(Address, ArithmeticAndAlignment) {
    const Address base(0x1000);
    EXPECT_EQ((base + 8).value(), 0x1008U);
    EXPECT_EQ((base + 8) - base, 8U);
    EXPECT_TRUE(base.is_aligned(4096));
    EXPECT_FALSE((base + 4).is_aligned(8));
    EXPECT_TRUE(Address().is_null());
}

TEST(Error, ResultCarriesKindErrnoAndWords) {
    const Status status = fail(ErrorKind::kSystem, "open ring", 12);
    ASSERT_FALSE(status.has_value());
    EXPECT_EQ(status.error().kind, ErrorKind::kSystem);
    EXPECT_EQ(status.error().system_errno, 12);
    EXPECT_STREQ(status.error().what, "open ring");
}

}  // namespace
}  // namespace echion
