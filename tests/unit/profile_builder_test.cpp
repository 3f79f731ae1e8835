#include "model/profile_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace echion::model {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t kMs = 1'000'000;

/// Writes down samples as `thread-name: a,b = value`, and keeps the stacks it was told.
class Samples final : public StackSink {
  public:
    std::vector<std::string> lines;
    std::vector<SampleTime> times;  // of each line

    void process(PythonVersion /*version*/) override {}
    void thread(std::uint32_t id, std::int64_t /*interpreter*/, std::uint32_t /*native_id*/,
                std::string_view name) override {
        threads_.resize(std::max<std::size_t>(threads_.size(), id + 1));
        threads_[id].name = name;
    }
    void thread_ended(std::uint32_t id) override { threads_[id] = {}; }
    void stack(std::uint32_t id, StackMarks marks, std::size_t kept,
               std::span<const Frame> frames) override {
        threads_[id].frames.resize(kept);
        for (const Frame& frame : frames) {
            threads_[id].frames.push_back(std::string(frame.code.name) + ":" +
                                          std::to_string(frame.line));
        }
        threads_[id].mark = marks.in_gc ? " gc" : "";
    }
    void sample(std::uint32_t id, std::int64_t value, SampleTime until) override {
        times.push_back(until);
        std::string line = threads_[id].name + ":";
        for (const auto& frame : threads_[id].frames) {
            line += " " + frame;
        }
        lines.push_back(line + threads_[id].mark + " = " + std::to_string(value));
    }
    void missed(std::uint32_t id, std::int64_t value, SampleTime until) override {
        times.push_back(until);
        lines.push_back(threads_[id].name + ": missed = " + std::to_string(value));
    }

  private:
    struct Thread {
        std::string name;
        std::string mark;
        std::vector<std::string> frames;
    };
    std::vector<Thread> threads_;
};

/// Ten bytes of code a line.
std::uint32_t line_of(const CodeView& code, std::int32_t offset) {
    return offset < 0 ? code.first_line : code.first_line + static_cast<std::uint32_t>(offset / 10);
}

class Builder : public testing::Test {
  protected:
    void begin(Metric metric) {
        builder = std::make_unique<ProfileBuilder>(sink, metric, line_of);
        builder->start(1, {3, 12, 0});
        define(0, "f", 1);
        define(1, "g", 100);
        define(2, "h", 200);
        builder->thread(0, 0, 10, "main");
    }
    void define(std::uint32_t id, std::string_view name, std::uint32_t first_line) {
        builder->code(id, {CodeKind::kLnotab, first_line, name, {}, "x.py", {}});
    }
    void stack(std::uint32_t thread, std::uint32_t kept, std::vector<FrameLocation> frames,
               StackMarks marks = {}) {
        builder->stack(thread, marks, kept, frames);
    }

    Samples sink;
    std::unique_ptr<ProfileBuilder> builder;
};

TEST_F(Builder, ACodeWithoutATableHasItsLinesInTheStack) {
    begin(Metric::kWallTime);
    builder->code(5, {CodeKind::kLines, 7, "large", {}, "x.py", {}});
    builder->tick(kMs);
    stack(0, 0, {{5, 123456}});
    builder->tick(kMs);
    stack(0, 0, {{5, 0}});  // not known
    builder->tick(kMs);
    stack(0, 0, {{5, -3}});  // none either
    builder->tick(kMs);
    builder->finish();
    EXPECT_EQ(builder->lines_skipped(), 0U);
    EXPECT_EQ(sink.lines,
              (std::vector<std::string>{"main: large:123456 = 1000", "main: large:0 = 3000"}));
}

TEST_F(Builder, TimeThatIsNobodysIsNotCounted) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(4 * kMs);
    builder->share(0, 0);  // these four are nobody's already
    builder->checkpoint();
    builder->tick(8 * kMs);
    builder->missed(0, 8 * kMs);
    builder->tick(16 * kMs);
    builder->lost(1, kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(2 * kMs);
    builder->share(0, 1);
    builder->tick(kMs);
    builder->share(0, 0);
    builder->live_on(kMs, kMs);
    builder->end_after(0, 5 * kMs, kMs);
    builder->finish();
    EXPECT_EQ(sink.lines, (std::vector<std::string>{"main: f:1 = 1000", "main: f:1 = 2000"}));
    EXPECT_EQ(builder->missed_us(), 0U);
}

TEST_F(Builder, PartsOfAThreadsTimeAddUp) {
    begin(Metric::kWallTime);
    for (std::uint32_t id = 1; id < 4; ++id) {
        builder->thread(id, 0, 10, "part");
        builder->share(id, 3);
    }
    builder->thread_end(0);
    for (int i = 0; i < 3; ++i) {
        builder->tick(kMs + 1);
        for (std::uint32_t id = 1; id < 4; ++id) {
            stack(id, 0, {{i % 2 == 0 ? 0U : 1U, 0}});
        }
    }
    builder->tick(10 * kMs);
    for (std::uint32_t id = 1; id < 4; ++id) {
        builder->missed(id, 9 * kMs);
    }
    builder->finish();
    // Three ticks of 1 ms and one of 10, of which nobody looked at nine; each has its rest of a us.
    EXPECT_NEAR(static_cast<double>(builder->value_us()), 13'000, 3);
    EXPECT_EQ(builder->missed_us(), 9'000U);
}

TEST_F(Builder, AThreadThatBeginsAgainHasAllOfItsTime) {
    begin(Metric::kWallTime);
    builder->share(0, 0);
    builder->tick(kMs);
    builder->thread_end(0);
    builder->thread(0, 0, 10, "again");
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(kMs);
    builder->finish();
    EXPECT_EQ(builder->value_us(), 3'000U);  // from the tick in front of the one that began it
}

TEST_F(Builder, SearchesNoTablesWithoutEnd) {
    begin(Metric::kWallTime);
    const std::vector<std::byte> table(std::size_t{1} << 20);
    builder->code(5, {CodeKind::kLnotab, 7, "large", {}, "x.py", table});
    std::vector<FrameLocation> frames;
    for (std::int32_t offset = 0; offset < 100; ++offset) {
        frames.push_back({5, 10 * offset});
    }
    stack(0, 0, frames);
    const std::uint64_t most = ProfileBuilder::kMaxSearchedBytes / table.size();
    EXPECT_EQ(builder->lines_skipped(), 100 - most);
    stack(0, 0, {});
    stack(0, 0, frames);  // the others' turn
    EXPECT_EQ(builder->lines_skipped(), 100 - most);
}

TEST_F(Builder, KnowsWhatItHolds) {
    begin(Metric::kWallTime);
    const std::size_t before = builder->memory_bytes();
    define(7, std::string(100'000, 'n'), 1);
    EXPECT_GE(builder->memory_bytes(), before + 100'000);
    define(7, "short", 1);
    EXPECT_LT(builder->memory_bytes(), before + 10'000);
    stack(0, 0, std::vector<FrameLocation>(100'000, FrameLocation{7, 0}));
    EXPECT_GE(builder->memory_bytes(), before + 800'000);
    stack(0, 1, {});
    builder->thread_end(0);
    EXPECT_LT(builder->memory_bytes(), before + 10'000);
}

TEST_F(Builder, HandsOnMostAtACheckpoint) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    std::uint64_t handed_ms = 0;
    for (std::uint64_t ms = 2; ms <= 100'000; ++ms) {
        builder->tick(kMs);
        if (ms % 1000 == 0) {
            builder->checkpoint();
            handed_ms = builder->value_us() / 1000;
            ASSERT_GE(handed_ms + 2, ms - ms / 10);
        }
    }
    EXPECT_LT(builder->samples(), 50U);  // of a stack that stood for 100 s
    EXPECT_GT(builder->samples(), 10U);
    stack(0, 1, {{1, 0}});
    const std::uint64_t before = builder->samples();
    builder->tick(kMs);
    builder->tick(kMs);
    builder->checkpoint();
    EXPECT_EQ(builder->samples(), before + 1) << "a new stack begins anew";
    builder->finish();
    EXPECT_EQ(builder->value_us(), builder->duration_ns() / 1000) << "nothing is lost or doubled";
}

TEST_F(Builder, TellsUpToWhenASampleCounts) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(kMs);
    builder->tick(kMs);
    stack(0, 0, {{1, 0}});
    builder->tick(kMs);
    builder->missed(0, kMs);
    builder->tick(kMs);
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 2000", "main: g:100 = 1000",
                                        "main: missed = 1000", "main: g:100 = 1000"));
    // The stream starts at 1 ns.
    EXPECT_THAT(sink.times, ElementsAre(2 * kMs + 1, 4 * kMs + 1, 4 * kMs + 1, 5 * kMs + 1));
}

TEST_F(Builder, HandsOnCpuTimeAtACheckpoint) {
    begin(Metric::kCpuTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->cpu(0, 700'000);
    builder->tick(kMs);
    builder->checkpoint();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 700"));
    builder->checkpoint();
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 700"));
}

TEST_F(Builder, MergesTheSameStackIntoOneSample) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}, {1, 0}});
    for (int i = 0; i < 9; ++i) {
        builder->tick(kMs);
    }
    EXPECT_THAT(sink.lines, IsEmpty());
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 g:100 = 10000"));
}

TEST_F(Builder, GivesTheTimeUpToATickToTheStackOfThatTick) {
    begin(Metric::kWallTime);
    builder->tick(1 * kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(2 * kMs);
    builder->tick(4 * kMs);
    stack(0, 1, {{1, 0}});
    builder->tick(8 * kMs);
    stack(0, 1, {{2, 0}});
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 3000", "main: f:1 g:100 = 4000",
                                        "main: f:1 h:200 = 8000"));
    EXPECT_EQ(builder->duration_ns(), 15 * kMs);
}

TEST_F(Builder, AnotherInstructionOnTheSameLineIsTheSameStack) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 2}, {1, 0}});
    builder->tick(kMs);
    stack(0, 0, {{0, 8}, {1, 4}});
    builder->tick(kMs);
    stack(0, 1, {{1, 12}});
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 g:100 = 2000", "main: f:1 g:101 = 1000"));
}

TEST_F(Builder, GoesOnWhenAStackIsGivenAgain) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(kMs);
    stack(0, 1, {});
    define(0, "f", 1);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 3000"));
}

TEST_F(Builder, TakesARedefinedCodeForAnother) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    define(0, "new", 1);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 1000", "main: new:1 = 1000"));
}

TEST_F(Builder, MarksTellStacksApart) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(kMs);
    stack(0, 1, {}, {.in_gc = true});
    builder->tick(kMs);
    stack(0, 1, {});
    builder->finish();
    EXPECT_THAT(sink.lines,
                ElementsAre("main: f:1 = 1000", "main: f:1 gc = 1000", "main: f:1 = 1000"));
}

TEST_F(Builder, CarriesWhatIsBelowAMicrosecond) {
    begin(Metric::kWallTime);
    for (int i = 0; i < 10; ++i) {
        builder->tick(1600);
        stack(0, 0, {{static_cast<std::uint32_t>(i % 2), 0}});
    }
    builder->finish();
    std::int64_t sum = 0;
    for (const auto& line : sink.lines) {
        sum += std::stoll(line.substr(line.rfind(' ')));
    }
    EXPECT_EQ(sum, 16);
}

TEST_F(Builder, CountsAThreadFromTheTickInFrontToThePreviousOne) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    builder->tick(2 * kMs);
    builder->thread(1, 0, 11, "worker");
    stack(1, 0, {{1, 0}});
    builder->tick(4 * kMs);
    builder->tick(8 * kMs);
    builder->thread_end(1);
    EXPECT_THAT(sink.lines, ElementsAre("worker: g:100 = 6000"));
}

TEST_F(Builder, RenamesInPlace) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(kMs);
    builder->thread(0, 0, 10, "renamed");
    builder->tick(kMs);
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 1000", "renamed: f:1 = 2000"));
}

TEST_F(Builder, AFirstNameIsThatOfAllItsTime) {
    begin(Metric::kWallTime);
    builder->thread(0, 0, 10, "");
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(kMs);
    builder->thread(0, 0, 10, "named");
    builder->tick(kMs);
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("named: f:1 = 3000"));
}

TEST_F(Builder, GivesWallTimeThatNobodyLookedAtToNoStack) {
    begin(Metric::kWallTime);
    builder->thread(1, 0, 11, "asleep");
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    stack(1, 0, {{1, 0}});
    builder->tick(kMs);
    builder->tick(500 * kMs);
    builder->missed(0, 500 * kMs);  // with the same stack as before
    builder->tick(kMs);
    builder->tick(200 * kMs);
    builder->tick(100 * kMs);
    builder->missed(0, 300 * kMs);  // of the last two ticks
    stack(0, 0, {{1, 0}});
    builder->tick(kMs);
    builder->missed(0, 900 * kMs);  // more than there is
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 2000", "main: missed = 500000",
                                        "main: f:1 = 1000", "main: missed = 300000",
                                        "main: missed = 1000", "asleep: g:100 = 804000"));
    EXPECT_EQ(builder->missed_us(), 801'000U);
    EXPECT_EQ(builder->value_us(), 2 * 804'000U);
}

TEST_F(Builder, CountsWhatAThreadLivedBeforeItWasMet) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(500 * kMs);
    builder->thread(1, 0, 11, "younger");
    builder->missed(1, 20 * kMs);
    stack(1, 0, {{0, 0}});
    builder->thread(2, 0, 12, "older");
    builder->missed(2, 700 * kMs);
    stack(2, 0, {{0, 0}});
    builder->tick(kMs);
    builder->finish();
    EXPECT_THAT(sink.lines,
                ElementsAre("younger: missed = 20000", "older: missed = 700000",
                            "main: f:1 = 502000", "younger: f:1 = 1000", "older: f:1 = 1000"));
}

TEST_F(Builder, GivesTheLastStackALittleOfWhatCameBehindIt) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->live_on(8 * kMs, 10 * kMs);
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 9000"));
    EXPECT_EQ(builder->duration_ns(), 9 * kMs);
}

TEST_F(Builder, GivesNoStackMuchOfWhatCameBehindIt) {
    begin(Metric::kWallTime);
    builder->thread(1, 0, 11, "worker");
    builder->thread(2, 0, 12, "soon gone");
    builder->thread(3, 0, 13, "gone before");
    builder->tick(kMs);
    for (const std::uint32_t id : {0U, 1U, 2U, 3U}) {
        stack(id, 0, {{0, 0}});
    }
    builder->thread_end(3);
    builder->end_after(1, 300 * kMs, 10 * kMs);
    builder->end_after(2, 5 * kMs, 10 * kMs);
    builder->end_after(3, 5 * kMs, 10 * kMs);
    builder->live_on(800 * kMs, 10 * kMs);
    builder->finish();
    EXPECT_THAT(sink.lines,
                ElementsAre("worker: f:1 = 1000", "worker: missed = 300000",
                            "soon gone: f:1 = 6000", "main: f:1 = 1000", "main: missed = 800000"));
    EXPECT_EQ(builder->missed_us(), 1'100'000U);
    EXPECT_EQ(builder->duration_ns(), 801 * kMs);
}

TEST_F(Builder, GivesCpuTimeThatNobodyLookedAtToNoStack) {
    begin(Metric::kCpuTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->cpu(0, 900'000);
    builder->tick(kMs);
    builder->missed(0, 40'000'500);
    builder->missed(0, 500);
    builder->missed(9, 1);  // nobody
    builder->finish();
    EXPECT_THAT(sink.lines,
                ElementsAre("main: missed = 40000", "main: missed = 1", "main: f:1 = 900"));
}

TEST_F(Builder, GivesLostTimeToNobody) {
    begin(Metric::kWallTime);
    builder->thread(1, 0, 11, "gone");
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    stack(1, 0, {{1, 0}});
    builder->tick(kMs);
    builder->tick(kMs);
    builder->lost(5, 50 * kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(kMs);
    EXPECT_THAT(sink.lines, ElementsAre("gone: g:100 = 2000"));
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("gone: g:100 = 2000", "main: f:1 = 4000"));
    EXPECT_EQ(builder->duration_ns(), 54 * kMs);
    EXPECT_EQ(builder->lost_ns(), 50 * kMs);
}

TEST_F(Builder, TakesATickWithoutTimeForMoreOfTheSame) {
    begin(Metric::kWallTime);
    builder->thread(1, 0, 11, "b");
    builder->tick(kMs);
    builder->lost(1, kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(0);
    stack(1, 0, {{1, 0}});
    builder->tick(kMs);
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 2000", "b: g:100 = 2000"));
}

TEST_F(Builder, DoesNotWrapWhereALossFollowsMissedTimeInTheSameTick) {
    begin(Metric::kWallTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->tick(50 * kMs);
    builder->missed(0, 50 * kMs);
    builder->tick(0);
    builder->lost(1, 0);
    stack(0, 0, {{1, 0}});
    builder->tick(kMs);
    builder->lost(1, kMs);
    builder->missed(0, kMs);
    builder->tick(0);
    builder->lost(1, 2 * kMs);
    stack(0, 0, {{2, 0}});
    builder->tick(kMs);
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 1000", "main: missed = 50000",
                                        "main: missed = 1000", "main: h:200 = 1000"));
    EXPECT_EQ(builder->duration_ns(), 56 * kMs);
    EXPECT_EQ(builder->value_us(), 53'000U);
}

TEST_F(Builder, AThreadThatIsGivenAgainWithoutAStackSurvivesALoss) {
    begin(Metric::kCpuTime);
    builder->thread(9, 0, 0, "threads not seen");
    builder->tick(kMs);
    builder->cpu(9, kMs);
    builder->tick(kMs);
    builder->lost(1, kMs);
    builder->thread(9, 0, 0, "threads not seen");
    builder->cpu(9, kMs);
    for (int i = 0; i < 100; ++i) {
        builder->tick(kMs);
        builder->cpu(9, kMs);
    }
    builder->finish();
    EXPECT_EQ(builder->value_us(), 102'000U);
}

TEST_F(Builder, NoStackFromInFrontOfALossEarnsBehindIt) {
    begin(Metric::kCpuTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}}, {.in_gc = true});
    builder->cpu(0, 5'000);
    builder->tick(kMs);
    builder->cpu(0, 7'000);
    builder->tick(0);
    builder->lost(1, kMs);
    builder->thread(0, 0, 10, "main");
    builder->cpu(0, 20'000);
    builder->tick(kMs);
    builder->cpu(0, 30'000);
    builder->tick(kMs);
    builder->cpu(0, 40'000);
    stack(0, 0, {{1, 0}});
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 gc = 12", "main: = 50", "main: g:100 = 40"));
}

TEST_F(Builder, GivesTheStackBehindALossAllOfItsTick) {
    begin(Metric::kCpuTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->cpu(0, 5'000);
    builder->tick(kMs);
    builder->lost(1, kMs);
    builder->thread(0, 0, 10, "main");
    builder->cpu(0, 20'000);
    stack(0, 0, {{1, 0}});
    builder->finish();
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 5", "main: g:100 = 20"));
}

TEST_F(Builder, CountsMissedTimeInTheTickOfALoss) {
    for (const Metric metric : {Metric::kCpuTime, Metric::kWallTime}) {
        sink.lines.clear();
        begin(metric);
        builder->tick(kMs);
        stack(0, 0, {{0, 0}});
        builder->tick(500 * kMs);
        builder->lost(1, kMs);
        builder->thread(0, 0, 10, "main");
        builder->missed(0, 500 * kMs);
        stack(0, 0, {{0, 0}});
        builder->finish();
        EXPECT_EQ(builder->missed_us(), 500'000U);
        EXPECT_EQ(builder->value_us(), metric == Metric::kWallTime ? 501'000U : 500'000U);
    }
}

TEST_F(Builder, GivesCpuTimeToTheStackBehindTheTick) {
    begin(Metric::kCpuTime);
    builder->tick(kMs);
    stack(0, 0, {{0, 0}});
    builder->cpu(0, 300'000);
    builder->tick(kMs);
    builder->cpu(0, 500'000);  // in front of its stack
    stack(0, 1, {{1, 0}});
    builder->tick(kMs);  // none
    builder->tick(kMs);
    builder->cpu(0, 70'000);
    builder->thread_end(0);
    EXPECT_THAT(sink.lines, ElementsAre("main: f:1 = 300", "main: f:1 g:100 = 570"));
}

TEST_F(Builder, SumsWhatItHandsOn) {
    begin(Metric::kWallTime);
    builder->thread(1, 0, 11, "other");
    builder->tick(1 * kMs);
    builder->tick(2 * kMs);
    builder->lost(1, 8 * kMs);
    builder->tick(16 * kMs);
    builder->finish();
    std::uint64_t sum = 0;
    for (const std::string& line : sink.lines) {
        sum += std::stoull(line.substr(line.find("= ") + 2));
    }
    EXPECT_GT(sum, 0U);
    EXPECT_EQ(builder->value_us(), sum);
}

TEST_F(Builder, IgnoresWhatComesAfterTheEnd) {
    begin(Metric::kWallTime);
    builder->finish();
    builder->tick(kMs);
    builder->thread(1, 0, 1, "late");
    stack(1, 0, {{0, 0}});
    builder->thread_end(1);
    builder->finish();
    EXPECT_THAT(sink.lines, IsEmpty());
}

}  // namespace
}  // namespace echion::model
