#include "cpython/line_index.h"

#include <gtest/gtest.h>

#include <vector>

#include "test_memory.h"

namespace echion::cpython {
namespace {

using Outcome = LineIndex::Outcome;

constexpr std::size_t kNoLimit = ~std::size_t{0};

/// A table of 3.10's form, in which each line has two bytes of code.
std::vector<std::byte> make_table(std::size_t lines) {
    std::vector<std::byte> table;
    for (std::size_t i = 0; i < lines; ++i) {
        table.push_back(std::byte{2});
        table.push_back(static_cast<std::byte>(i != 0));
    }
    return table;
}

class LongTable : public testing::Test {
  protected:
    LongTable() : index_(*LineIndex::make()), buffer_(LineIndex::kStepBytes) {}

    void begin(LineTableKind kind, const std::vector<std::byte>& table) {
        table_ = memory_.allocate(table.size());
        memory_.write_bytes(table_, table.data(), table.size());
        index_.begin(kind, table_, table.size(), 1);
    }
    Outcome find(std::int64_t offset, std::int32_t* line, std::size_t budget = kNoLimit) {
        return index_.find(memory_, buffer_, offset, &budget, line);
    }

    test::TestMemory memory_;
    LineIndex index_;
    std::vector<std::byte> buffer_;
    Address table_;
};

TEST_F(LongTable, GivesTheLinesThatTheWholeOneGives) {
    constexpr std::int64_t kLines = 200'000;
    const auto table = make_table(kLines);
    begin(LineTableKind::kLinetable, table);
    for (const std::int64_t line :
         {kLines, std::int64_t{1}, kLines / 2, std::int64_t{32768}, std::int64_t{32769}}) {
        std::int32_t found = 0;
        EXPECT_EQ(find(2 * (line - 1), &found), Outcome::kFound);
        EXPECT_EQ(found, line);
        EXPECT_EQ(found,
                  parse_line_table(LineTableKind::kLinetable, table, 1, 2 * (line - 1)).line);
    }
    std::int32_t found = 0;
    EXPECT_EQ(find(-2, &found), Outcome::kFound);
    EXPECT_EQ(found, 1);
    EXPECT_EQ(find(2 * kLines, &found), Outcome::kFound) << "behind the code";
    EXPECT_EQ(found, 0);
}

TEST_F(LongTable, AnLnotabGoesOnWithItsLastLine) {
    std::vector<std::byte> table(300'000);  // entries that change nothing
    table.push_back(std::byte{10});
    table.push_back(std::byte{41});
    begin(LineTableKind::kLnotab, table);
    std::int32_t found = 0;
    EXPECT_EQ(find(8, &found), Outcome::kFound);
    EXPECT_EQ(found, 1);
    EXPECT_EQ(find(1000, &found), Outcome::kFound);
    EXPECT_EQ(found, 42);
}

TEST_F(LongTable, ReadsNoMoreThanItMayAndGoesOnLater) {
    begin(LineTableKind::kLinetable, make_table(200'000));
    std::int32_t found = 0;
    int calls = 0;
    Outcome outcome = Outcome::kLater;
    for (; calls < 100 && outcome == Outcome::kLater; ++calls) {
        const std::size_t before = memory_.bytes;
        outcome = find(2 * 199'999, &found, 2 * LineIndex::kStepBytes);
        EXPECT_LE(memory_.bytes - before, 2 * LineIndex::kStepBytes);
    }
    EXPECT_EQ(outcome, Outcome::kFound);
    EXPECT_EQ(found, 200'000);
    EXPECT_EQ(calls, 4);  // seven steps to the end, and the one with the line again
    const std::size_t before = memory_.bytes;
    EXPECT_EQ(find(2 * 199'999, &found, 0), Outcome::kFound) << "known by now";
    EXPECT_EQ(memory_.bytes, before);
    EXPECT_EQ(find(2 * 100'000, &found), Outcome::kFound);
    EXPECT_LE(memory_.bytes - before, LineIndex::kStepBytes) << "not from its start again";
}

TEST_F(LongTable, AnEntryWithoutEndIsNotFollowed) {
    // The long form of 3.11, whose number goes on and on.
    std::vector<std::byte> table(3 * LineIndex::kStepBytes, std::byte{0x40});
    table[0] = std::byte{0x80 | 14 << 3};
    begin(LineTableKind::kLocations, table);
    std::int32_t found = 0;
    EXPECT_EQ(find(0, &found), Outcome::kUnknown);
    EXPECT_EQ(found, 0);
    EXPECT_LE(memory_.bytes, LineIndex::kStepBytes);
}

TEST_F(LongTable, MemoryThatHasGoneGivesNoLine) {
    begin(LineTableKind::kLinetable, make_table(200'000));
    std::int32_t found = 0;
    EXPECT_EQ(find(2 * 150'000, &found), Outcome::kFound);
    memory_.unmap(table_);
    EXPECT_EQ(find(2 * 20'000, &found), Outcome::kUnknown);
    EXPECT_EQ(found, 0);
    EXPECT_EQ(find(2 * 199'000, &found), Outcome::kUnknown);
}

TEST_F(LongTable, HasABound) {
    index_.begin(LineTableKind::kLinetable, Address(0x1000), ~std::uint64_t{0} >> 1U, 1);
    std::int32_t found = 0;
    EXPECT_EQ(find(0, &found), Outcome::kUnknown) << "nothing is there";

    // Ranges of no bytes: the line never comes.
    begin(LineTableKind::kLinetable,
          std::vector<std::byte>((LineIndex::kSteps + 2) * LineIndex::kStepBytes));
    const std::size_t before = memory_.bytes;
    EXPECT_EQ(find(0, &found), Outcome::kUnknown);
    EXPECT_EQ(memory_.bytes - before, LineIndex::kSteps * LineIndex::kStepBytes);
    EXPECT_EQ(find(0, &found), Outcome::kUnknown);
    EXPECT_EQ(memory_.bytes - before, LineIndex::kSteps * LineIndex::kStepBytes) << "once";

    index_.begin(LineTableKind::kLinetable, table_, 0, 1);
    EXPECT_EQ(find(0, &found), Outcome::kUnknown) << "an empty one";
}

}  // namespace
}  // namespace echion::cpython
