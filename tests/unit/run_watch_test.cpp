// On a CPU or runnable: told from what changes first in the scheduler's counts.

#include "capture/run_watch.h"

#include <gtest/gtest.h>

namespace echion::capture {
namespace {

// Run time, wait time and slices of a thread when the watch begins.
constexpr ThreadRun kFirst{1000, 500, 7};

class RunWatched : public ::testing::Test {
  protected:
    RunWatched() {
        watch_.look(0, kFirst);
        watch_.look(100, kFirst);
    }
    Scheduling look(std::int64_t now_ns, const ThreadRun& run) {
        watch_.look(now_ns, run);
        return watch_.verdict();
    }

    RunWatch watch_;
};

TEST_F(RunWatched, NothingIsSaidWhileTheCountsStandStill) {
    EXPECT_TRUE(watch_.has_begun());
    EXPECT_EQ(watch_.verdict(), Scheduling::kUnknown);
}

TEST_F(RunWatched, ATickOrAnEndOfItsRunIsOfAThreadOnACpu) {
    EXPECT_EQ(look(200, {1200, 500, 7}), Scheduling::kOnCpu);
}

TEST_F(RunWatched, AThreadThatComesOntoACpuBehindALongWaitWasRunnable) {
    EXPECT_EQ(look(200, {1000, 500 + 190, 8}), Scheduling::kRunnable);
    EXPECT_EQ(look(300, {1400, 690, 8}), Scheduling::kRunnable);  // as it was when this began
}

TEST_F(RunWatched, AThreadThatWasAwayForLessThanALookWasOnACpu) {
    EXPECT_EQ(look(200, {1130, 500 + 40, 8}), Scheduling::kOnCpu);
}

TEST_F(RunWatched, AThreadThatMovesToAnotherQueueWasRunnable) {
    EXPECT_EQ(look(200, {1000, 620, 7}), Scheduling::kRunnable);
}

TEST_F(RunWatched, AnotherStateForgetsWhatWasSeen) {
    watch_.reset();
    EXPECT_FALSE(watch_.has_begun());
    EXPECT_EQ(look(300, {1200, 500, 7}), Scheduling::kUnknown);
    EXPECT_EQ(look(400, {1300, 500, 7}), Scheduling::kOnCpu);
}

}  // namespace
}  // namespace echion::capture
