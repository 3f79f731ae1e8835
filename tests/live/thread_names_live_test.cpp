// Thread names read from running interpreters, through renames, ends and reused idents.

#include <gtest/gtest.h>

#include <memory>
#include <set>

#include "cpython/layout.h"
#include "cpython/thread_names.h"
#include "live_python.h"
#include "platform/process_reader.h"

namespace echion::cpython {
namespace {

using test::to_number;

class ThreadNamesLive : public testing::TestWithParam<std::string> {};

TEST_P(ThreadNamesLive, FollowNamesRenamesAndEnds) {
    test::LivePython python(GetParam(), ECHION_LIVE_SCRIPT);
    const Layout* layout = test::find_layout_of(python);
    ASSERT_NE(layout, nullptr);
    ProcessReader memory;
    ASSERT_TRUE(memory.open(python.pid(), Address()).has_value());
    ObjectReader objects(memory, *layout);
    auto names = ThreadNames::make();
    ASSERT_TRUE(names.has_value());

    for (int step = 0; step < 4; ++step) {
        ASSERT_FALSE(python.facts().empty()) << "step " << step;
        const Address modules(to_number(python.facts().at(1).at(1)));
        // Small budgets in turns come to the same as one large one.
        const std::uint64_t calls = memory.system_calls();
        std::size_t read = 0;
        for (int turn = 0; turn < 6; ++turn) {
            auto scan = names->scan(objects, 0, modules, 40);
            ASSERT_TRUE(scan.has_value()) << scan.error().what;
            read += scan->read;
            EXPECT_LE(scan->read, 40U);
        }
        // Six scans; each about 15 reads for the table and at most seven for a name.
        EXPECT_LE(memory.system_calls() - calls, 6 * 30 + 7 * read);

        std::set<std::uintptr_t> alive;
        for (const auto& fact : python.facts()) {
            const auto id = static_cast<std::uintptr_t>(to_number(fact.at(1)));
            if (fact.at(0) == "thread") {
                alive.insert(id);
                EXPECT_EQ(names->find(0, id), fact.at(2) == "-" ? "" : test::from_hex(fact.at(2)))
                    << "step " << step;
            }
        }
        EXPECT_GT(alive.size(), 50U);
        EXPECT_EQ(names->size(), alive.size());
        for (const auto& fact : python.facts()) {
            if (fact.at(0) == "gone" && alive.count(to_number(fact.at(1))) == 0) {
                EXPECT_EQ(names->find(0, to_number(fact.at(1))), "");
            }
        }
        python.step();
    }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ThreadNamesLive);
INSTANTIATE_TEST_SUITE_P(Pythons, ThreadNamesLive, testing::ValuesIn(test::find_pythons()),
                         [](const auto& python) { return test::python_name(python.param); });

}  // namespace
}  // namespace echion::cpython
