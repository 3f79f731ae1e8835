#include "platform/thread_record.h"

#include <gtest/gtest.h>

#include <vector>

#include "test_memory.h"

namespace echion {
namespace {

constexpr std::uint32_t kNumber = 0x7f12;
constexpr std::size_t kPlace = 96;

class ThreadRecord : public testing::Test {
  protected:
    ThreadRecord() {
        memory_.map(record_, 512);
        // A pointer to the record itself, and one whose upper half is the thread's number.
        memory_.write<std::uintptr_t>(record_, record_.value());
        memory_.write<std::uint64_t>(record_ + 2 * sizeof(void*), 0x7f12'3456'7000);
        memory_.write<std::uint32_t>(record_ + kPlace, kNumber);
    }

    std::size_t find(std::uint32_t number) {
        return find_thread_number(memory_, record_.value(), [&](std::size_t, std::uint32_t found) {
            return found == number;
        });
    }

    const Address record_{0x10000};
    test::TestMemory memory_;
};

TEST_F(ThreadRecord, AnAddressesUpperHalfIsNoNumber) {
    if (sizeof(void*) == 4) {
        GTEST_SKIP() << "words are no longer than numbers here";
    }
    EXPECT_EQ(find(kNumber), kPlace);
}

TEST_F(ThreadRecord, AsksUntilToldThatItIsThePlace) {
    std::vector<std::size_t> asked;
    const std::size_t place =
        find_thread_number(memory_, record_.value(), [&](std::size_t offset, std::uint32_t number) {
            asked.push_back(offset);
            return number == kNumber && offset >= kPlace;
        });
    EXPECT_EQ(place, kPlace);
    EXPECT_EQ(asked.front(), sizeof(void*));
    EXPECT_EQ(asked.back(), kPlace);
}

TEST_F(ThreadRecord, EndsWhereItsMappingDoes) {
    EXPECT_EQ(find(kNumber + 1), 0U);
    memory_.unmap(record_);
    EXPECT_EQ(find(kNumber), 0U);
}

}  // namespace
}  // namespace echion
