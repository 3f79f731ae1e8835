// Reports of running interpreters that are cut short: what has been written is a whole report.

#include <gtest/gtest.h>

#include <optional>

#include "cpython/locate.h"
#include "live_python.h"
#include "memory/read_budget.h"
#include "platform/process_reader.h"
#include "report/process_report.h"

namespace echion::report {
namespace {

/// Counts what is written, and checks the order of the calls.
class Counter final : public ReportWriter {
  public:
    void begin(const ReportHeader&) override { EXPECT_EQ(state_++, 0); }
    void begin_thread(const capture::CapturedThread&, std::string_view) override {
        EXPECT_EQ(state_++, 1);
        ++threads;
    }
    void frame(const capture::SourceFrame&) override {
        EXPECT_EQ(state_, 2);
        ++frames;
    }
    void end_thread() override { EXPECT_EQ(state_--, 2); }
    void end(bool cut) override {
        EXPECT_EQ(state_, 1);
        state_ = 3;
        is_cut = cut;
    }
    [[nodiscard]] bool has_ended() const { return state_ == 3; }

    int threads = 0;
    int frames = 0;
    bool is_cut = false;

  private:
    int state_ = 0;
};

class ReportLive : public testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        ASSERT_TRUE(memory_.open(python_.pid(), Address()));
        ASSERT_TRUE(cpython::locate_runtime(memory_, python_.pid(), located_));
        auto report = ProcessReport::make(located_.view, {});
        ASSERT_TRUE(report);
        report_.emplace(std::move(*report));
        same_cpu_.open(SameCpu::find_thread_area_offset());
    }

    Status write(MemoryReader& reader, Counter& counter, FunctionRef<bool()> may_go_on) {
        return report_->write(reader, same_cpu_, python_.pid(), {}, counter, may_go_on);
    }

    test::LivePython python_{GetParam(), ECHION_LIVE_SCRIPT};
    ProcessReader memory_;
    cpython::LocatedRuntime located_;
    std::optional<ProcessReport> report_;
    SameCpu same_cpu_;
};

TEST_P(ReportLive, IsCutBetweenFrames) {
    Counter whole;
    int asked = 0;
    ASSERT_TRUE(write(memory_, whole, [&] { return ++asked > 0; }));
    EXPECT_TRUE(whole.has_ended() && !whole.is_cut);
    EXPECT_EQ(whole.threads, 3);
    EXPECT_GT(whole.frames, 60);
    for (int limit = 0; limit < asked; limit += 7) {
        Counter cut;
        int left = limit;
        ASSERT_TRUE(write(memory_, cut, [&] { return --left >= 0; }));
        EXPECT_TRUE(cut.has_ended() && cut.is_cut) << limit;
        EXPECT_LE(cut.frames, limit);
    }
}

TEST_P(ReportLive, EndsWithTheBudgetWhereverThatIs) {
    ReadBudget plenty({UINT64_MAX, 1'000'000, 1'000 * kNanosPerSecond});
    BudgetedReader counting(memory_, plenty);
    Counter whole;
    ASSERT_TRUE(write(counting, whole, [] { return true; }));
    for (std::uint64_t reads = 1; reads < 2000; reads += 1 + reads / 3) {
        ReadBudget budget({UINT64_MAX, reads, 1'000 * kNanosPerSecond});
        BudgetedReader reader(memory_, budget);
        Counter cut;
        const Status written = write(reader, cut, [&] { return !budget.is_over(); });
        EXPECT_TRUE(!written || cut.has_ended()) << reads;
        EXPECT_TRUE(!written || cut.is_cut || !budget.is_over()) << reads;
        EXPECT_LE(cut.frames, whole.frames);
    }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(ReportLive);
INSTANTIATE_TEST_SUITE_P(Pythons, ReportLive, testing::ValuesIn(test::find_pythons()),
                         [](const auto& python) { return test::python_name(python.param); });

}  // namespace
}  // namespace echion::report
