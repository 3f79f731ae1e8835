#include "base/mapping.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

namespace echion {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

/// Pages of a range that are in memory.
std::size_t resident_bytes(const void* from, std::size_t size_bytes) {
    constexpr std::size_t kPage = 4096;
    std::vector<unsigned char> pages(size_bytes / kPage);
    EXPECT_EQ(mincore(const_cast<void*>(from), size_bytes, pages.data()), 0);
    std::size_t count = 0;
    for (const unsigned char page : pages) {
        count += page & 1U;
    }
    return count * kPage;
}

TEST(Reservation, GrowsAsItIsAskedTo) {
    auto reservation = Reservation::make(3 * kMiB);
    ASSERT_TRUE(reservation);
    EXPECT_EQ(reservation->capacity_bytes(), 3 * kMiB);
    ASSERT_TRUE(reservation->grow_to(1));
    reservation->data()[0] = std::byte{1};
    ASSERT_TRUE(reservation->grow_to(kMiB + 1));
    reservation->data()[kMiB] = std::byte{2};
    EXPECT_EQ(reservation->data()[0], std::byte{1});
    EXPECT_TRUE(reservation->grow_to(3 * kMiB));
    reservation->data()[3 * kMiB - 1] = std::byte{3};
    EXPECT_FALSE(reservation->grow_to(3 * kMiB + 1));
    EXPECT_TRUE(reservation->grow_to(0));
}

TEST(Reservation, IsNotFilledByAProgramThatLocksItsMemory) {
    constexpr std::size_t kLarge = 512 * kMiB;
    auto before = Reservation::make(kLarge);
    ASSERT_TRUE(before && before->grow_to(1));
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
        GTEST_SKIP() << "mlockall: " << std::strerror(errno);
    }
    auto after = Reservation::make(kLarge);
    const bool has_grown = after && after->grow_to(1);
    munlockall();
    ASSERT_TRUE(has_grown);
    for (const Reservation* one : {&*before, &*after}) {
        EXPECT_LE(resident_bytes(one->data(), kLarge), kMiB);
    }
}

}  // namespace
}  // namespace echion
