// Following a process: how times are gathered, and how they are drawn and written down.

#include "cli/follow_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "cli/follow_summary.h"

namespace echion::cli {
namespace {

using report::Consistency;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::int64_t kSecond = 1'000'000'000;

class Followed : public ::testing::Test {
  protected:
    static report::CapturedThread make_thread(std::uintptr_t state) {
        report::CapturedThread thread;
        thread.state = Address(state);
        thread.state_id = state;
        thread.native_id = static_cast<std::uint32_t>(state);
        thread.tid = static_cast<pid_t>(state);
        thread.kernel_state = 'S';
        return thread;
    }

    std::vector<FrameId> make_stack(std::initializer_list<const char*> functions) {
        std::vector<FrameId> stack;
        for (const char* function : functions) {
            stack.push_back(*model_.number({function, "/src/app.py", 7}));
        }
        return stack;
    }

    /// One sample of one thread.
    void sample(const report::CapturedThread& captured, std::int64_t elapsed_ns,
                std::int64_t run_ns, const std::vector<FrameId>* stack) {
        model_.begin_sample(elapsed_ns);
        FollowThread* thread = model_.find(captured);
        ASSERT_NE(thread, nullptr);
        thread->name = "worker";
        model_.add(*thread, captured, ThreadRun{run_ns, 0, 1}, stack);
    }

    FollowModel model_{false};
    report::ReportHeader header_{4711, 4711, "python3", {3, 12, 1}};
};

TEST_F(Followed, TheFirstSampleIsAStart) {
    const auto stack = make_stack({"main"});
    sample(make_thread(8), 0, 500, &stack);
    EXPECT_EQ(model_.threads()[0].seen_ns, 0);
    EXPECT_EQ(model_.threads()[0].cpu_ns, 0);
    EXPECT_TRUE(rank_stacks(model_.threads()[0]).stacks.empty());
}

TEST_F(Followed, TimeGoesToTheStackThatIsSeen) {
    const auto here = make_stack({"main", "here"});
    const auto there = make_stack({"main", "there"});
    sample(make_thread(8), 0, 100, &here);
    sample(make_thread(8), 30, 110, &here);
    sample(make_thread(8), 10, 115, &there);
    sample(make_thread(8), 50, 125, &here);
    const FollowThread& thread = model_.threads()[0];
    const RankedStacks ranked = rank_stacks(thread);
    ASSERT_EQ(ranked.stacks.size(), 2U);
    EXPECT_EQ(ranked.stacks[0]->frames, here);
    EXPECT_EQ(ranked.stacks[0]->time_ns, 80);
    EXPECT_EQ(ranked.stacks[1]->time_ns, 10);
    EXPECT_EQ(ranked.total_ns, 90);
    EXPECT_EQ(thread.cpu_ns, 25);
}

TEST_F(Followed, AThreadThatHasRestedStaysInItsStack) {
    auto captured = make_thread(8);
    captured.gil_role = report::GilRole::kWaits;
    const auto stack = make_stack({"main"});
    sample(captured, 0, 100, &stack);
    auto unread = make_thread(8);
    unread.is_skipped = true;
    unread.kernel_state = '?';
    sample(unread, 40, 100, nullptr);
    const FollowThread& thread = model_.threads()[0];
    EXPECT_EQ(thread.stacks.size(), 1U);
    EXPECT_EQ(thread.stacks[0].time_ns, 40);
    EXPECT_EQ(thread.captured.kernel_state, 'S');
    EXPECT_EQ(thread.captured.gil_role, report::GilRole::kWaits);
    EXPECT_FALSE(thread.was_running);
}

TEST_F(Followed, CpuModeCountsWhatTheThreadHasRun) {
    model_ = FollowModel(true);
    const auto stack = make_stack({"main"});
    sample(make_thread(8), 0, 100, &stack);
    sample(make_thread(8), 40, 103, &stack);
    EXPECT_EQ(model_.threads()[0].stacks[0].time_ns, 3);
}

TEST_F(Followed, AnotherThreadInTheSamePlaceIsAnother) {
    const auto stack = make_stack({"main"});
    sample(make_thread(8), 0, 100, &stack);
    auto other = make_thread(8);
    other.state_id = 9;
    sample(other, 40, 5, &stack);
    ASSERT_EQ(model_.threads().size(), 2U);
    EXPECT_FALSE(model_.threads()[0].is_present);
    EXPECT_EQ(model_.threads()[1].seen_ns, 0);
}

TEST_F(Followed, StacksBeyondTheBoundAreCountedTogether) {
    const auto thread = make_thread(8);
    std::vector<FrameId> stack = make_stack({"main"});
    sample(thread, 0, 1, &stack);
    for (std::size_t i = 0; i < FollowModel::kMaxStacksPerThread + 10; ++i) {
        stack.push_back(static_cast<FrameId>(i % 7));
        if (stack.size() > 40) {
            stack = {static_cast<FrameId>(i)};
        }
        stack[0] = static_cast<FrameId>(i);
        sample(thread, 1, 1, &stack);
    }
    const FollowThread& seen = model_.threads()[0];
    EXPECT_TRUE(seen.has_left_out);
    EXPECT_LE(seen.stacks.size(), FollowModel::kMaxStacksPerThread + 1);
    EXPECT_EQ(rank_stacks(seen).total_ns,
              static_cast<std::int64_t>(FollowModel::kMaxStacksPerThread + 10));
}

TEST_F(Followed, TheSummaryHasSharesInOrder) {
    const auto rare = make_stack({"main", "rare"});
    const auto often = make_stack({"main", "often"});
    sample(make_thread(8), 0, 1, &rare);
    sample(make_thread(8), kSecond / 4, 1, &rare);
    sample(make_thread(8), 3 * kSecond / 4, 1 + kSecond / 2, &often);
    EXPECT_EQ(make_text_summary(model_, header_, report::Palette::none()),
              "Process 4711 (python3), Python 3.12.1: 1.000 s, 3 samples, wall time\n"
              "\n"
              "    🧵 worker: thread 8, 50.0 % CPU\n"
              "       75.0 %  0.750 s\n"
              "        main (/src/app.py:7)\n"
              "        often (/src/app.py:7)\n"
              "       25.0 %  0.250 s\n"
              "        main (/src/app.py:7)\n"
              "        rare (/src/app.py:7)\n"
              "\n");
    const std::string json = make_json_summary(model_, header_, 1000, FollowEnd::kSignal);
    EXPECT_THAT(json, HasSubstr(R"("kind":"follow")"));
    EXPECT_THAT(json, HasSubstr(R"("mode":"wall","interval_ns":1000,"duration_ns":1000000000,)"
                                R"("samples":3,"ended_by":"signal")"));
    EXPECT_THAT(json, HasSubstr(R"("stacks":[{"share":0.750000,"time_ns":750000000,"samples":1,)"
                                R"("whole":true,"frames":[{"function":"main")"));
}

TEST_F(Followed, TheSummaryMarksStacksThatAreNotWhole) {
    auto torn = make_thread(8);
    torn.consistency = Consistency::kTorn;
    const auto stack = make_stack({"main"});
    sample(torn, 0, 1, &stack);
    sample(torn, 10, 1, &stack);
    EXPECT_THAT(make_text_summary(model_, header_, report::Palette::none()),
                HasSubstr("(not the whole stack)"));
}

/// Columns of a line, counted anew from its text.
int count_columns(std::string_view text) {
    int columns = 0;
    while (!text.empty()) {
        if (text.starts_with("\x1b[")) {
            text.remove_prefix(text.find('m') + 1);
            continue;
        }
        columns += report::column_width(report::take_code_point(text));
    }
    return columns;
}

struct Size {
    int columns;
    int rows;
};

class View : public Followed, public ::testing::WithParamInterface<Size> {
  protected:
    void fill(int threads, int depth) {
        model_.begin_sample(0);
        for (int pass = 0; pass < 2; ++pass) {
            for (int i = 0; i < threads; ++i) {
                std::vector<FrameId> stack;
                for (int frame = 0; frame < depth; ++frame) {
                    stack.push_back(*model_.number(
                        {"Größe_世界.function_" + std::to_string(frame) + (pass ? "\x1b[2J" : ""),
                         "/a/rather/long/path/to/a/file/in/the/program.py", frame + 1}));
                }
                const auto captured = make_thread(static_cast<std::uintptr_t>(8 + i));
                FollowThread* thread = model_.find(captured);
                thread->name = "worker 🧶 " + std::to_string(i);
                model_.add(*thread, captured, ThreadRun{i * kSecond * pass + 1, 0, 1}, &stack);
            }
            if (pass == 0) {
                model_.begin_sample(kSecond);
            }
        }
    }
};

TEST_P(View, FitsItsTerminal) {
    const auto [columns, rows] = GetParam();
    for (const auto& [threads, depth] : {std::pair{1, 3}, {3, 50}, {40, 8}, {2, 0}}) {
        model_ = FollowModel(false);
        fill(threads, depth);
        for (const auto& palette : {report::Palette::none(), report::Palette::colours()}) {
            const auto lines = draw_view(model_, header_, kSecond, {columns, rows}, palette);
            EXPECT_LE(static_cast<int>(lines.size()), std::max(rows, 4) - 1);
            for (const ViewLine& line : lines) {
                EXPECT_LT(count_columns(line.text), std::max(columns, 20)) << line.text;
                EXPECT_LE(count_columns(line.text), line.columns) << line.text;
                EXPECT_THAT(line.text, Not(HasSubstr("\x1b[2J")));
                EXPECT_THAT(line.text, Not(HasSubstr("\n")));
            }
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Sizes, View,
                         ::testing::Values(Size{80, 24}, Size{200, 60}, Size{20, 4}, Size{1, 1},
                                           Size{40, 10}, Size{33, 7}));

TEST_F(View, ShowsThreadsTheirStacksAndWhatTookMost) {
    fill(2, 3);
    std::string text;
    for (const ViewLine& line :
         draw_view(model_, header_, 2 * kSecond, {160, 40}, report::Palette::none())) {
        text += line.text + "\n";
    }
    EXPECT_THAT(text, HasSubstr("Process 4711 (python3), Python 3.12.1: 1.0 s, 2.0 s left"));
    EXPECT_THAT(text, HasSubstr("🧵 worker 🧶 1 100.0 % CPU, sleeping\n"));
    EXPECT_THAT(text, HasSubstr("    Größe_世界.function_0\\x1b[2J (/a/rather"));
    EXPECT_THAT(text, HasSubstr("Most time so far\n   1.0 s 100.0 % worker 🧶 0  "));
    EXPECT_THAT(text, HasSubstr("function_2\\x1b[2J (program.py:3)\n"));
}

}  // namespace
}  // namespace echion::cli
