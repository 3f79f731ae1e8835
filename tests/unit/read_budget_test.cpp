// What ends a read of a process that could go on for ever: budgets, and the guard of stalled ones.

#include "memory/read_budget.h"

#include <gtest/gtest.h>

#include <array>

#include "memory/stall_guard.h"
#include "test_memory.h"

namespace echion {
namespace {

constexpr std::int64_t kNoHurry = 1'000 * kNanosPerSecond;

class Budgets : public testing::Test {
  protected:
    void SetUp() override { place_ = memory_.allocate(4096); }

    std::size_t read_all(MemoryReader& reader, std::size_t size_bytes) {
        std::size_t count = 0;
        std::array<std::byte, 4096> copy;
        while (count < 1000 && reader.read_bytes(place_, copy.data(), size_bytes)) {
            ++count;
        }
        return count;
    }

    test::TestMemory memory_;
    Address place_;
};

TEST_F(Budgets, EndWithTheirBytes) {
    ReadBudget budget({1000, 1000, kNoHurry});
    BudgetedReader reader(memory_, budget);
    EXPECT_EQ(read_all(reader, 300), 3U);
    EXPECT_TRUE(budget.is_over());
    EXPECT_EQ(read_all(reader, 1), 0U) << "what is left is not given out any more";
    EXPECT_EQ(memory_.bytes, 900U);
}

TEST_F(Budgets, EndWithTheirReads) {
    ReadBudget budget({1000, 5, kNoHurry});
    BudgetedReader reader(memory_, budget);
    EXPECT_EQ(read_all(reader, 1), 5U);
    EXPECT_TRUE(budget.is_over());
}

TEST_F(Budgets, EndWithTheirTime) {
    ReadBudget budget({1000, 1000, 0});
    BudgetedReader reader(memory_, budget);
    EXPECT_EQ(read_all(reader, 1), 0U);
    EXPECT_TRUE(budget.is_over());
    EXPECT_FALSE(budget.has_time());
    EXPECT_EQ(memory_.calls, 0U);
}

TEST_F(Budgets, CountEachRangeOfABatch) {
    ReadBudget budget({1000, 3, kNoHurry});
    BudgetedReader reader(memory_, budget);
    std::array<std::byte, 64> copy;
    const std::array<ReadRequest, 2> two{{{place_, copy.data(), 8}, {place_ + 8, copy.data(), 8}}};
    EXPECT_EQ(reader.read(two), 2U);
    EXPECT_EQ(reader.read(two), 0U);
}

TEST_F(Budgets, SizesThatWrapAroundAreTooMuch) {
    ReadBudget budget({1000, 1000, kNoHurry});
    BudgetedReader reader(memory_, budget);
    std::array<std::byte, 64> copy;
    const std::array<ReadRequest, 2> two{
        {{place_, copy.data(), SIZE_MAX}, {place_, copy.data(), 2}}};
    EXPECT_EQ(reader.read(two), 0U);
    EXPECT_EQ(memory_.calls, 0U);
}

TEST(Guard, NamesTheNearestDeadline) {
    StallGuard guard;
    const std::int64_t begin_ns = monotonic_ns();
    EXPECT_EQ(guard.find_late(INT64_MAX), 0) << "nothing is being done";
    {
        const StallGuard::Section outer(&guard, kNoHurry);
        const std::int64_t outer_ns = guard.find_late(INT64_MAX);
        EXPECT_GE(outer_ns, begin_ns + kNoHurry);
        EXPECT_EQ(guard.find_late(outer_ns - 1), 0);
        {
            const StallGuard::Section inner(&guard, kNanosPerSecond);
            EXPECT_LT(guard.find_late(INT64_MAX), outer_ns);
            const StallGuard::Section longer(&guard, 2 * kNoHurry);
            EXPECT_LT(guard.find_late(INT64_MAX), outer_ns);
        }
        EXPECT_EQ(guard.find_late(INT64_MAX), outer_ns);
    }
    EXPECT_EQ(guard.find_late(INT64_MAX), 0);
}

TEST(Guard, GivesUpOnlyWhatIsStillBeingDone) {
    StallGuard guard;
    std::int64_t late_ns = 0;
    {
        const StallGuard::Section section(&guard, kNanosPerSecond);
        late_ns = guard.find_late(INT64_MAX);
    }
    EXPECT_FALSE(guard.give_up(late_ns));
}

/// A reader in whose read the guard's deadline is looked at.
class LookingReader final : public MemoryReader {
  public:
    explicit LookingReader(StallGuard& guard) : guard_(guard) {}
    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        deadline_ns = guard_.find_late(INT64_MAX);
        return requests.size();
    }
    std::int64_t deadline_ns = 0;

  private:
    StallGuard& guard_;
};

TEST(Guard, EachReadIsASection) {
    StallGuard guard;
    LookingReader inner(guard);
    GuardedReader reader(inner, &guard);
    const std::int64_t begin_ns = monotonic_ns();
    ASSERT_TRUE(reader.read_bytes(Address(1), nullptr, 1));
    EXPECT_GE(inner.deadline_ns, begin_ns + kStalledReadNs);
    EXPECT_EQ(guard.find_late(INT64_MAX), 0);
}

}  // namespace
}  // namespace echion
