#include "cpython/line_table.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <limits>
#include <vector>

namespace echion::cpython {

void PrintTo(const SourcePosition& p, std::ostream* out) {
    *out << p.line << ':' << p.column << '-' << p.end_line << ':' << p.end_column;
}

namespace {

std::vector<std::byte> bytes(std::initializer_list<int> values) {
    std::vector<std::byte> result;
    for (int value : values) {
        result.push_back(static_cast<std::byte>(value));
    }
    return result;
}

SourcePosition only_line(std::int32_t line) { return {.line = line}; }

TEST(Lnotab, LineChangesAfterTheByteDelta) {
    // first line 10; from byte 6 on line 11; from byte 56 on line 211 (in two steps).
    const auto table = bytes({6, 1, 50, 127, 0, 73});
    const auto at = [&](std::int64_t offset) {
        return parse_line_table(LineTableKind::kLnotab, table, 10, offset);
    };
    EXPECT_EQ(at(0), only_line(10));
    EXPECT_EQ(at(5), only_line(10));
    EXPECT_EQ(at(6), only_line(11));
    EXPECT_EQ(at(55), only_line(11));
    EXPECT_EQ(at(56), only_line(211));
    EXPECT_EQ(at(100000), only_line(211));
}

TEST(Lnotab, LineDeltasAreSigned) {
    EXPECT_EQ(parse_line_table(LineTableKind::kLnotab, bytes({2, 0xfb}), 10, 4), only_line(5));
}

TEST(Lnotab, ATableWithoutBytesIsTheFirstLine) {
    EXPECT_EQ(parse_line_table(LineTableKind::kLnotab, {}, 7, 4), only_line(7));
}

TEST(Lnotab, ALineThatSinksBelowOneIsUnknown) {
    EXPECT_EQ(parse_line_table(LineTableKind::kLnotab, bytes({2, 0x80}), 10, 4), SourcePosition{});
}

TEST(Linetable, RangesWithAndWithoutLines) {
    // bytes 0-3 line 5, 4-7 none, 8-9 line 4, 10-11 line 104
    const auto table = bytes({4, 0, 4, 0x80, 2, 0xff, 0, 50, 2, 50});
    const auto at = [&](std::int64_t offset) {
        return parse_line_table(LineTableKind::kLinetable, table, 5, offset);
    };
    EXPECT_EQ(at(0), only_line(5));
    EXPECT_EQ(at(3), only_line(5));
    EXPECT_EQ(at(4), SourcePosition{});
    EXPECT_EQ(at(8), only_line(4));
    EXPECT_EQ(at(10), only_line(104));
    EXPECT_EQ(at(12), SourcePosition{});
}

TEST(Linetable, HalfAPairIsNotUsed) {
    EXPECT_EQ(parse_line_table(LineTableKind::kLinetable, bytes({4}), 5, 0), SourcePosition{});
}

TEST(Locations, ShortForm) {
    // form 2, two code units; columns 16 + 3 = 19 to 19 + 7 = 26
    const auto table = bytes({0x80 | (2 << 3) | 1, (3 << 4) | 7});
    const SourcePosition expected{.line = 9, .end_line = 9, .column = 20, .end_column = 27};
    EXPECT_EQ(parse_line_table(LineTableKind::kLocations, table, 9, 0), expected);
    EXPECT_EQ(parse_line_table(LineTableKind::kLocations, table, 9, 2), expected);
    EXPECT_EQ(parse_line_table(LineTableKind::kLocations, table, 9, 4), SourcePosition{});
}

TEST(Locations, OneLineForm) {
    const auto table = bytes({0x80 | (12 << 3), 100, 200});
    const SourcePosition expected{.line = 11, .end_line = 11, .column = 101, .end_column = 201};
    EXPECT_EQ(parse_line_table(LineTableKind::kLocations, table, 9, 1), expected);
}

TEST(Locations, NoColumnsFormWithASignedDelta) {
    // delta -3: 3 << 1 | 1 = 7
    const auto table = bytes({0x80 | (13 << 3), 7});
    const SourcePosition expected{.line = 6, .end_line = 6};
    EXPECT_EQ(parse_line_table(LineTableKind::kLocations, table, 9, 0), expected);
}

TEST(Locations, LongForm) {
    // delta +100 (200 in two groups of six), end line +2, column 69 (70 in two), no end column
    const auto table = bytes({0x80 | (14 << 3), 0x40 | 8, 3, 2, 0x40 | 6, 1, 0});
    const SourcePosition expected{.line = 109, .end_line = 111, .column = 70, .end_column = 0};
    EXPECT_EQ(parse_line_table(LineTableKind::kLocations, table, 9, 0), expected);
}

TEST(Locations, NoPositionFormKeepsTheLineForTheNext) {
    const auto table = bytes({0x80 | (11 << 3), 0, 1, 0x80 | (15 << 3), 0x80, 0});
    EXPECT_EQ(parse_line_table(LineTableKind::kLocations, table, 9, 2), SourcePosition{});
    EXPECT_EQ(parse_line_table(LineTableKind::kLocations, table, 9, 4).line, 10);
}

TEST(Locations, AnEntryThatIsCutOffIsUnknown) {
    const auto table = bytes({0x80 | (12 << 3), 100});
    EXPECT_EQ(parse_line_table(LineTableKind::kLocations, table, 9, 0), SourcePosition{});
}

TEST(Locations, AVarintThatNeverEndsIsUnknown) {
    std::vector<std::byte> table = bytes({0x80 | (13 << 3)});
    table.resize(4096, std::byte{0x7f});
    EXPECT_EQ(parse_line_table(LineTableKind::kLocations, table, 9, 0), SourcePosition{});
}

TEST(Locations, HugeDeltasDoNotOverflow) {
    // Entries of delta +2^63 or so, over and over; then a negative one.
    std::vector<std::byte> table;
    for (int i = 0; i < 100; ++i) {
        table.push_back(std::byte{0x80 | (13 << 3)});
        table.insert(table.end(), 10, std::byte{0x7e});
        table.push_back(std::byte{0x3f});
    }
    for (std::int64_t offset = 0; offset < 220; ++offset) {
        EXPECT_EQ(parse_line_table(LineTableKind::kLocations, table,
                                   std::numeric_limits<std::int32_t>::max(), offset)
                      .line,
                  0);
    }
}

class EveryKind : public testing::TestWithParam<LineTableKind> {};

TEST_P(EveryKind, BeforeTheFirstInstructionIsTheFirstLine) {
    EXPECT_EQ(parse_line_table(GetParam(), bytes({0x80, 0x80}), 42, -2), only_line(42));
    EXPECT_EQ(parse_line_table(GetParam(), {}, 42, -1), only_line(42));
}

TEST_P(EveryKind, AFirstLineThatCannotBeOneIsUnknown) {
    EXPECT_EQ(parse_line_table(GetParam(), {}, -5, -1), SourcePosition{});
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryKind,
                         testing::Values(LineTableKind::kLnotab, LineTableKind::kLinetable,
                                         LineTableKind::kLocations));

}  // namespace
}  // namespace echion::cpython
