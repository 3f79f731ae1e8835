// Following a process: how times are gathered, and how they are drawn and written down.

#include "where/follow_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "base/utf8.h"
#include "where/follow_summary.h"

namespace echion::where {
namespace {

using capture::Consistency;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::int64_t kSecond = 1'000'000'000;

class Followed : public ::testing::Test {
  protected:
    static capture::CapturedThread make_thread(std::uintptr_t state) {
        capture::CapturedThread thread;
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
    void sample(const capture::CapturedThread& captured, std::int64_t elapsed_ns,
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
    EXPECT_EQ(model_.threads()[0].spent.seen_ns, 0);
    EXPECT_EQ(model_.threads()[0].spent.on_cpu_ns, 0);
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
    EXPECT_EQ(thread.spent.on_cpu_ns, 25);
}

TEST_F(Followed, AThreadThatHasRestedStaysInItsStack) {
    auto captured = make_thread(8);
    captured.gil_role = capture::GilRole::kWaits;
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
    EXPECT_EQ(thread.captured.gil_role, capture::GilRole::kWaits);
    EXPECT_FALSE(thread.was_running);
}

TEST_F(Followed, CpuModeCountsWhatTheThreadHasRun) {
    model_ = FollowModel(true);
    const auto stack = make_stack({"main"});
    sample(make_thread(8), 0, 100, &stack);
    sample(make_thread(8), 40, 103, &stack);
    EXPECT_EQ(model_.threads()[0].stacks[0].time_ns, 3);
}

/// What each stack of the only thread has, as "on CPU, runnable, waiting".
class Accounted : public Followed {
  protected:
    Accounted() { model_ = FollowModel(false, /*tick_ns=*/4); }
    void sample_counts(char state, std::int64_t elapsed_ns, const ThreadRun& run,
                       const std::vector<FrameId>& stack) {
        auto captured = make_thread(8);
        captured.kernel_state = state;
        model_.begin_sample(elapsed_ns);
        model_.add(*model_.find(captured), captured, run, &stack);
    }
    static std::vector<std::int64_t> parts(const SpentTime& spent) {
        return {spent.on_cpu_ns, spent.runnable_ns, spent.waiting_ns()};
    }
    std::vector<std::int64_t> whole() { return parts(model_.threads()[0].spent); }
    std::vector<std::int64_t> of_stack(std::size_t index) {
        return parts(model_.threads()[0].stacks[index].spent);
    }

    const std::vector<FrameId> here_ = {0};
    const std::vector<FrameId> there_ = {1};
};

using Parts = std::vector<std::int64_t>;

TEST_F(Accounted, AThreadIsOnACpuRunnableOrWaiting) {
    sample_counts('S', 0, {100, 50, 1}, here_);
    sample_counts('S', 10, {103, 52, 2}, here_);
    EXPECT_EQ(whole(), (Parts{3, 2, 5}));
}

TEST_F(Accounted, ARunThatIsCountedLateIsThatOfTheTimeBefore) {
    sample_counts('R', 0, {100, 50, 1}, here_);
    sample_counts('R', 3, {100, 50, 1}, here_);
    sample_counts('R', 3, {104, 50, 1}, there_);
    EXPECT_EQ(of_stack(0), (Parts{1, 0, 2}));
    EXPECT_EQ(of_stack(1), (Parts{3, 0, 0}));
    sample_counts('R', 2, {108, 50, 1}, there_);
    EXPECT_EQ(whole(), (Parts{8, 0, 0}));
}

TEST_F(Accounted, AWaitThatIsCountedAtItsEndIsThatOfTheStackThatItWasIn) {
    sample_counts('R', 0, {100, 50, 1}, here_);
    sample_counts('R', 5, {100, 50, 1}, here_);
    sample_counts('R', 5, {102, 57, 2}, there_);
    EXPECT_EQ(of_stack(0), (Parts{0, 4, 1}));
    EXPECT_EQ(of_stack(1), (Parts{2, 3, 0}));
}

TEST_F(Accounted, AWaitThatGoesOnIsSeen) {
    sample_counts('R', 0, {100, 50, 1}, here_);
    sample_counts('R', 5, {100, 50, 1}, here_);
    EXPECT_EQ(whole(), (Parts{0, 0, 5}));  // a tick may yet come
    sample_counts('R', 5, {100, 50, 1}, here_);
    EXPECT_EQ(whole(), (Parts{0, 10, 0}));
    // Its end is counted once, without what it lasted before.
    sample_counts('R', 5, {101, 150, 2}, here_);
    EXPECT_EQ(whole(), (Parts{1, 14, 0}));
}

TEST_F(Accounted, AThreadOnACpuWithoutTicksIsNotRunnableAfterAll) {
    sample_counts('R', 0, {100, 50, 1}, here_);
    sample_counts('R', 10, {100, 50, 1}, here_);
    EXPECT_EQ(whole(), (Parts{0, 10, 0}));
    sample_counts('R', 10, {120, 50, 1}, there_);
    EXPECT_EQ(whole(), (Parts{20, 0, 0}));
    EXPECT_EQ(of_stack(0), (Parts{10, 0, 0}));
}

TEST_F(Accounted, ASleepIsNoWaitForACpu) {
    sample_counts('S', 0, {100, 50, 1}, here_);
    sample_counts('S', 1000, {100, 50, 1}, here_);
    sample_counts('R', 10, {100, 50, 1}, here_);
    EXPECT_EQ(whole(), (Parts{0, 0, 1010}));
}

TEST_F(Accounted, NoMoreIsToldThanTheTimeThatWasSeen) {
    sample_counts('R', 0, {100, 50, 1}, here_);
    sample_counts('R', 10, {5000, 7000, 9}, here_);
    EXPECT_EQ(whole(), (Parts{10, 0, 0}));
    sample_counts('R', 10, {100, 50, 3}, here_);  // counts that go back make no sense
    EXPECT_EQ(whole(), (Parts{10, 0, 10}));
}

TEST_F(Accounted, WithoutCountsTheCpuTimeIsTheClockTicks) {
    auto captured = make_thread(8);
    captured.kernel_state = 'R';
    for (const auto& [elapsed_ns, ticks] : {std::pair{std::int64_t{0}, 7}, {kSecond, 57}}) {
        captured.cpu_ticks = ticks;
        model_.begin_sample(elapsed_ns);
        model_.add(*model_.find(captured), captured, std::nullopt, &here_);
    }
    const FollowThread& thread = model_.threads()[0];
    EXPECT_FALSE(thread.has_counts());
    EXPECT_EQ(thread.spent.on_cpu_ns, 50 * kSecond / sysconf(_SC_CLK_TCK));
    (void)make_stack({"main"});
    EXPECT_THAT(make_text_summary(model_, header_, report::Palette::none()),
                HasSubstr("0.500 s on CPU, 0.500 s runnable or waiting\n"));
    EXPECT_THAT(make_json_summary(model_, header_, 1000, FollowEnd::kTime),
                HasSubstr(R"("runnable_ns":null,"waiting_ns":null)"));
}

TEST_F(Followed, AnotherThreadInTheSamePlaceIsAnother) {
    const auto stack = make_stack({"main"});
    sample(make_thread(8), 0, 100, &stack);
    auto other = make_thread(8);
    other.state_id = 9;
    sample(other, 40, 5, &stack);
    ASSERT_EQ(model_.threads().size(), 2U);
    EXPECT_FALSE(model_.threads()[0].is_present);
    EXPECT_EQ(model_.threads()[1].spent.seen_ns, 0);
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
    // That which counts the others together has no frames.
    EXPECT_EQ(seen.stacks.size(), FollowModel::kMaxStacksPerThread + 1);
    EXPECT_TRUE(seen.stacks.back().frames.empty());
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
              "      0.500 s on CPU, 0.000 s runnable, 0.500 s waiting\n"
              "       75.0 %  0.750 s: 0.500 s on CPU, 0.000 s runnable, 0.250 s waiting\n"
              "        main (/src/app.py:7)\n"
              "        often (/src/app.py:7)\n"
              "       25.0 %  0.250 s: 0.000 s on CPU, 0.000 s runnable, 0.250 s waiting\n"
              "        main (/src/app.py:7)\n"
              "        rare (/src/app.py:7)\n"
              "\n");
    const std::string json = make_json_summary(model_, header_, 1000, FollowEnd::kSignal);
    EXPECT_THAT(json, HasSubstr(R"("kind":"follow")"));
    EXPECT_THAT(json, HasSubstr(R"("mode":"wall","interval_ns":1000,"duration_ns":1000000000,)"
                                R"("samples":3,"ended_by":"signal")"));
    EXPECT_THAT(json, HasSubstr(R"("seen_ns":1000000000,"cpu_ns":500000000,)"
                                R"("on_cpu_ns":500000000,"runnable_ns":0,"waiting_ns":500000000,)"
                                R"("stacks":[{"share":0.750000,"time_ns":750000000,)"
                                R"("on_cpu_ns":500000000,"runnable_ns":0,"waiting_ns":250000000,)"
                                R"("samples":1,"whole":true,"frames":[{"function":"main")"));
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
        columns += report::column_width(take_code_point(text).value);
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
    auto captured = make_thread(11);
    captured.kernel_state = 'R';
    FollowThread* thread = model_.find(captured);
    thread->name = "worker 🧶 2";
    thread->recent = {10 * kSecond, 0, 4 * kSecond};
    model_.add(*thread, captured, ThreadRun{1, 0, 1}, nullptr);
    std::string text;
    for (const ViewLine& line :
         draw_view(model_, header_, 2 * kSecond, {160, 40}, report::Palette::none())) {
        text += line.text + "\n";
    }
    EXPECT_THAT(text, HasSubstr("Process 4711 (python3), Python 3.12.1: 1.0 s, 2.0 s left"));
    EXPECT_THAT(text, HasSubstr("🧵 worker 🧶 1 100.0 % CPU, sleeping\n"));
    EXPECT_THAT(text, HasSubstr("🧵 worker 🧶 2   0.0 % CPU, 40.0 % runnable\n"));
    EXPECT_THAT(text, HasSubstr("    Größe_世界.function_0\\x1b[2J (/a/rather"));
    EXPECT_THAT(text, HasSubstr("Most time so far\n   1.0 s 100.0 % worker 🧶 0  "));
    EXPECT_THAT(text, HasSubstr("function_2\\x1b[2J (program.py:3)\n"));
}

}  // namespace
}  // namespace echion::where
