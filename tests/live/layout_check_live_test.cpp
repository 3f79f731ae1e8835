// Rows held against running interpreters, as they are and with a field moved.

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "base/clock.h"
#include "cpython/layout_check.h"
#include "cpython/locate.h"
#include "live_python.h"
#include "platform/process_reader.h"

namespace echion::cpython {
namespace {

struct MovedField {
    const char* name;
    Offset& (*of)(Layout& layout);
};

// What leads to a stack, or says what is in it.
const MovedField kFields[] = {
    {"runtime.interpreters_head", [](Layout& l) -> Offset& { return l.runtime.interpreters_head; }},
    {"runtime.interpreters_main", [](Layout& l) -> Offset& { return l.runtime.interpreters_main; }},
    {"interpreter.id", [](Layout& l) -> Offset& { return l.interpreter.id; }},
    {"interpreter.threads_head", [](Layout& l) -> Offset& { return l.interpreter.threads_head; }},
    {"thread_state.prev", [](Layout& l) -> Offset& { return l.thread_state.prev; }},
    {"thread_state.next", [](Layout& l) -> Offset& { return l.thread_state.next; }},
    {"thread_state.interp", [](Layout& l) -> Offset& { return l.thread_state.interp; }},
    {"thread_state.frame", [](Layout& l) -> Offset& { return l.thread_state.frame; }},
    {"thread_state.cframe", [](Layout& l) -> Offset& { return l.thread_state.cframe; }},
    {"frame.previous", [](Layout& l) -> Offset& { return l.frame.previous; }},
    {"frame.code", [](Layout& l) -> Offset& { return l.frame.code; }},
    {"frame.instruction", [](Layout& l) -> Offset& { return l.frame.instruction; }},
    {"code.name", [](Layout& l) -> Offset& { return l.code.name; }},
    {"code.filename", [](Layout& l) -> Offset& { return l.code.filename; }},
    {"code.linetable", [](Layout& l) -> Offset& { return l.code.linetable; }},
};

class LayoutCheckLive : public testing::TestWithParam<std::string> {
  protected:
    LayoutCheckLive() : python_(GetParam(), ECHION_LIVE_SCRIPT) {}

    void SetUp() override {
        ASSERT_FALSE(python_.facts().empty());
        ASSERT_TRUE(reader_.open(python_.pid(), Address()).has_value());
        ASSERT_TRUE(locate_runtime(reader_, python_.pid(), located_).has_value());
    }

    LayoutVerdict look(const RuntimeView& view) {
        auto check = LayoutCheck::make();
        EXPECT_TRUE(check.has_value());
        LayoutVerdict verdict = check->check(reader_, view);
        const std::int64_t until_ns = monotonic_ns() + kNanosPerSecond;
        while (verdict == LayoutVerdict::kDoubted && monotonic_ns() < until_ns) {
            verdict = check->check(reader_, view);
        }
        contradiction_ = check->contradiction();
        return verdict;
    }

    test::LivePython python_;
    ProcessReader reader_;
    LocatedRuntime located_;
    const char* contradiction_ = "";
};

TEST_P(LayoutCheckLive, TheVersionsRowIsTrue) {
    EXPECT_EQ(look(located_.view), LayoutVerdict::kTrue) << contradiction_;
}

/// Where the place that a field is moved to holds what could be its own value.
bool can_be_its_own(const Layout& row, const std::string& name, Offset by) {
    const auto& runtime = row.runtime;
    const bool is_number = row.frame.instruction_kind != InstructionKind::kCodePointer;
    return name == "code.name" || name == "code.filename" ||  // the other one, or qualname
           (name == "frame.instruction" && is_number) ||      // another small number
           name == "interpreter.id" ||                        // another 0
           name == "thread_state.next" ||                     // a null, where the list ends
           (name == "runtime.interpreters_head" &&            // the same with one interpreter
            by == runtime.interpreters_main - runtime.interpreters_head) ||
           (name == "runtime.interpreters_main" &&
            by == runtime.interpreters_head - runtime.interpreters_main);
}

TEST_P(LayoutCheckLive, NoRowWithAMovedFieldIsTrue) {
    for (const MovedField& field : kFields) {
        for (const Offset by : {-8, 8, 16}) {
            Layout moved = *located_.view.layout;
            Offset& offset = field.of(moved);
            if (!has(offset) || offset + by < 0 ||
                can_be_its_own(*located_.view.layout, field.name, by)) {
                continue;
            }
            offset += by;
            RuntimeView view = located_.view;
            view.layout = &moved;
            const LayoutVerdict verdict = look(view);
            // By some there seems to be no thread, none that runs, or one between two frames.
            EXPECT_TRUE(verdict == LayoutVerdict::kRefuted || verdict == LayoutVerdict::kUntold)
                << field.name << " by " << by << ": " << static_cast<int>(verdict);
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Pythons, LayoutCheckLive, testing::ValuesIn(test::find_pythons()),
                         [](const auto& path) { return test::python_name(path.param); });
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(LayoutCheckLive);

}  // namespace
}  // namespace echion::cpython
