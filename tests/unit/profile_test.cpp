// What a profile says of itself, in front of the samples and behind them.
#include "cli/profile.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace echion::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

auto HasLineEnd(const std::string& text) { return HasSubstr(text + "\n"); }

class ProfileTest : public testing::Test {
  protected:
    ProfileTest() {
        folder = testing::TempDir() + "echion-test-XXXXXX";
        EXPECT_NE(mkdtemp(folder.data()), nullptr);
        ProfileSettings settings;
        settings.interval_ns = 1'000'000;
        profile.emplace(output::OutputFile::open(folder + "/out.austin").value(), settings);
    }
    ~ProfileTest() override { std::filesystem::remove_all(folder); }

    void sample(pid_t pid, std::uint64_t start_ticks = 0) {
        const auto process = profile->add_process(pid);
        process->thread(0, 0, 0, "MainThread");
        process->sample(0, 1000, {});
        profile->finish_process(pid, {}, start_ticks);
    }
    std::string finish(const KernelFigures& kernel = {}) {
        EXPECT_TRUE(profile->finish(false, kernel));
        std::stringstream all;
        all << std::ifstream(folder + "/out.austin").rdbuf();
        return all.str();
    }

    std::string folder;
    std::optional<Profile> profile;
};

TEST_F(ProfileTest, NamesTheEngineAndTheIntervalThatAreInUse) {
    profile->note_ticks("bpf", 10'000'000);
    profile->note_ticks("bpf", 10'000'000);
    sample(1);
    const std::string text = finish();
    EXPECT_THAT(text, HasLineEnd("# interval: 10000 "));
    EXPECT_THAT(text, HasLineEnd("# engine: bpf"));
    EXPECT_THAT(text, Not(HasSubstr("engines")));
    EXPECT_THAT(text, Not(HasSubstr("intervals")));
}

TEST_F(ProfileTest, CountsAProcessThatExecutesOnce) {
    sample(1, 10);
    sample(2, 10);
    sample(1, 10);  // has executed
    sample(1, 20);  // another one with its number
    EXPECT_THAT(finish(), HasLineEnd("# processes: 3 "));
}

TEST_F(ProfileTest, TellsOfProcessesThatDiffer) {
    profile->note_ticks("bpf", 10'000'000);
    profile->note_ticks("nanosleep", 1'000'000);
    sample(1);
    profile->note_ticks("perf", 1'000'000);
    sample(2);
    const std::string text = finish();
    EXPECT_THAT(text, HasLineEnd("# engine: bpf, nanosleep"));
    EXPECT_THAT(text, HasLineEnd("# interval: 10000 "));
    EXPECT_THAT(text, HasLineEnd("# engines: bpf, nanosleep, perf"));
    EXPECT_THAT(text, HasLineEnd("# intervals: 10000, 1000 "));
}

TEST_F(ProfileTest, TakesTheSamplersOwnClockForGrantedUntilItKnowsBetter) {
    sample(1);
    const std::string text = finish();
    EXPECT_THAT(text, HasLineEnd("# interval: 1000 "));
    EXPECT_THAT(text, HasLineEnd("# engine: nanosleep"));
}

TEST_F(ProfileTest, TellsWhatTheKernelFellShortOf) {
    sample(1);
    const std::string text = finish({.threads_refused = 7, .lowered_rate = 100});
    EXPECT_THAT(text, HasLineEnd("# threads_refused: 7 "));
    EXPECT_THAT(text, HasLineEnd("# lowered_tick_rate: 100 "));
}

TEST_F(ProfileTest, TellsOfARateOnlyIfItWasLowered) {
    sample(1);
    const std::string text = finish();
    EXPECT_THAT(text, HasLineEnd("# threads_refused: 0 "));
    EXPECT_THAT(text, Not(HasSubstr("lowered_tick_rate")));
}

}  // namespace
}  // namespace echion::cli
