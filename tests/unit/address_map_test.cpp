#include "memory/address_map.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <unordered_map>
#include <vector>

namespace echion {
namespace {

constexpr std::size_t kCapacity = 64;
constexpr std::size_t kUsable = kCapacity / 4 * 3;

AddressMap make_map() {
    auto map = AddressMap::make(kCapacity);
    EXPECT_TRUE(map.has_value());
    return std::move(*map);
}

Address key(std::size_t number) { return Address(0x1000 + 16 * number); }

TEST(AddressMap, FindsWhatWasSetAndNothingElse) {
    AddressMap map = make_map();
    EXPECT_EQ(map.find(key(1)), AddressMap::kNone);
    EXPECT_TRUE(map.set(key(1), 7));
    EXPECT_EQ(map.find(key(1)), 7U);
    EXPECT_EQ(map.find(key(2)), AddressMap::kNone);
    EXPECT_TRUE(map.set(key(1), 8));
    EXPECT_EQ(map.find(key(1)), 8U);
    EXPECT_EQ(map.size(), 1U);
}

TEST(AddressMap, TheNullAddressIsNoKey) {
    AddressMap map = make_map();
    EXPECT_EQ(map.find(Address()), AddressMap::kNone);
    EXPECT_FALSE(map.set(Address(), 3));
    map.set(key(1), 7);
    map.erase(Address());
    EXPECT_EQ(map.size(), 1U);
    EXPECT_EQ(map.find(key(1)), 7U);
}

TEST(AddressMap, ErasingAKeyThatIsNotThereChangesNothing) {
    AddressMap map = make_map();
    map.set(key(1), 7);
    map.erase(key(2));
    EXPECT_EQ(map.size(), 1U);
    EXPECT_EQ(map.find(key(1)), 7U);
}

TEST(AddressMap, RefusesMoreThanThreeQuartersOfItsSlots) {
    AddressMap map = make_map();
    for (std::size_t i = 0; i < kUsable; ++i) {
        ASSERT_TRUE(map.set(key(i), static_cast<std::uint32_t>(i))) << i;
    }
    EXPECT_FALSE(map.set(key(kUsable), 0));
    EXPECT_EQ(map.find(key(kUsable)), AddressMap::kNone);
    EXPECT_EQ(map.size(), kUsable);
}

TEST(AddressMap, ClearingMakesRoomForAll) {
    AddressMap map = make_map();
    for (std::size_t i = 0; i < kUsable; ++i) {
        map.set(key(i), 1);
    }
    map.clear();
    EXPECT_EQ(map.size(), 0U);
    for (std::size_t i = 0; i < kUsable; ++i) {
        EXPECT_EQ(map.find(key(i)), AddressMap::kNone);
        EXPECT_TRUE(map.set(key(i), 2));
    }
}

TEST(AddressMap, StaysRightWhileRunsOfEntriesAreErasedAndFilledAgain) {
    // A table this full consists of runs that meet and wrap around its end: every erase has entries
    // behind it to move up.
    AddressMap map = make_map();
    std::unordered_map<std::uintptr_t, std::uint32_t> expected;
    std::mt19937 random(20240611);
    for (std::uint32_t step = 0; step < 20'000; ++step) {
        const Address at = key(random() % (2 * kUsable));
        if (random() % 2 == 0) {
            map.erase(at);
            expected.erase(at.value());
        } else if (map.set(at, step)) {
            expected[at.value()] = step;
        }
        ASSERT_EQ(map.size(), expected.size());
        const Address probe = key(random() % (2 * kUsable));
        const auto found = expected.find(probe.value());
        ASSERT_EQ(map.find(probe), found == expected.end() ? AddressMap::kNone : found->second);
    }
}

}  // namespace
}  // namespace echion
