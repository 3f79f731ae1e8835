// The line table parsers against the interpreters' own answers, over much of the standard library.

#include <gtest/gtest.h>

#include <sstream>

#include "cpython/layout.h"
#include "cpython/line_table.h"
#include "live_python.h"

namespace echion::cpython {
namespace {

class LineTableLive : public testing::TestWithParam<std::string> {};

TEST_P(LineTableLive, PlacesEveryInstructionWhereTheInterpreterDoes) {
    const test::LivePython python(GetParam(), ECHION_LIVE_SCRIPT);
    ASSERT_GT(python.facts().size(), 1000U);
    const Layout* layout = test::find_layout_of(python);
    ASSERT_NE(layout, nullptr);

    std::size_t compared = 0;
    std::size_t with_columns = 0;
    for (const auto& fact : python.facts()) {
        if (fact.at(0) != "code") {
            continue;
        }
        const auto first_line = static_cast<std::int32_t>(test::to_number(fact.at(1)));
        const std::string table = test::from_hex(fact.at(2));
        std::stringstream places(fact.size() > 3 ? fact.at(3) : "");
        for (std::string place; places >> place;) {
            long long offset = 0;
            SourcePosition expected;
            ASSERT_EQ(std::sscanf(place.c_str(), "%lld:%d:%d:%d:%d", &offset, &expected.line,
                                  &expected.end_line, &expected.column, &expected.end_column),
                      5);
            const SourcePosition actual = parse_line_table(
                layout->code.line_table_kind, std::as_bytes(std::span(table)), first_line, offset);
            ASSERT_EQ(actual, expected)
                << "table " << fact.at(2) << " first line " << first_line << " place " << place
                << ": got " << actual.line << ':' << actual.end_line << ':' << actual.column << ':'
                << actual.end_column;
            ++compared;
            with_columns += expected.column != 0 ? 1U : 0U;
        }
    }
    EXPECT_GT(compared, 100000U);
    EXPECT_EQ(with_columns > 0, layout->code.line_table_kind == LineTableKind::kLocations);
    RecordProperty("instructions", static_cast<int>(compared));
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(LineTableLive);
INSTANTIATE_TEST_SUITE_P(Pythons, LineTableLive, testing::ValuesIn(test::find_pythons()),
                         [](const auto& python) { return test::python_name(python.param); });

}  // namespace
}  // namespace echion::cpython
