// What a profile says of itself, in front of the samples and behind them.
#include "cli/profile.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

namespace echion::cli {
namespace {

class ProfileTest : public testing::Test {
  protected:
    ProfileTest() {
        char name[] = "/tmp/echion-test-XXXXXX";
        folder = mkdtemp(name);
        ProfileSettings settings;
        settings.interval_ns = 1'000'000;
        profile.emplace(output::OutputFile::open(folder + "/out.austin").value(), settings);
    }
    ~ProfileTest() override { std::filesystem::remove_all(folder); }

    void sample(pid_t pid) {
        const auto process = profile->add_process(pid);
        process->thread(0, 0, "MainThread");
        process->sample(0, 1000);
        profile->finish_process(pid, {});
    }
    std::string finish(const KernelFigures& kernel = {}) {
        EXPECT_TRUE(profile->finish(false, kernel));
        std::stringstream all;
        all << std::ifstream(folder + "/out.austin").rdbuf();
        return all.str();
    }
    static bool has(const std::string& text, const std::string& line) {
        return text.find(line + "\n") != text.npos;
    }

    std::string folder;
    std::optional<Profile> profile;
};

TEST_F(ProfileTest, NamesTheEngineAndTheIntervalThatAreInUse) {
    profile->note_ticks("bpf", 10'000'000);
    profile->note_ticks("bpf", 10'000'000);
    sample(1);
    const std::string text = finish();
    EXPECT_TRUE(has(text, "# interval: 10000 ")) << text;
    EXPECT_TRUE(has(text, "# engine: bpf")) << text;
    EXPECT_EQ(text.find("engines"), text.npos);
    EXPECT_EQ(text.find("intervals"), text.npos);
}

TEST_F(ProfileTest, TellsOfProcessesThatDiffer) {
    profile->note_ticks("bpf", 10'000'000);
    profile->note_ticks("nanosleep", 1'000'000);
    sample(1);
    profile->note_ticks("perf", 1'000'000);
    sample(2);
    const std::string text = finish();
    EXPECT_TRUE(has(text, "# engine: bpf, nanosleep")) << text;
    EXPECT_TRUE(has(text, "# interval: 10000 ")) << text;
    EXPECT_TRUE(has(text, "# engines: bpf, nanosleep, perf")) << text;
    EXPECT_TRUE(has(text, "# intervals: 10000, 1000 ")) << text;
}

TEST_F(ProfileTest, TakesTheSamplersOwnClockForGrantedUntilItKnowsBetter) {
    sample(1);
    const std::string text = finish();
    EXPECT_TRUE(has(text, "# interval: 1000 ")) << text;
    EXPECT_TRUE(has(text, "# engine: nanosleep")) << text;
}

TEST_F(ProfileTest, TellsWhatTheKernelFellShortOf) {
    sample(1);
    const std::string text = finish({.threads_refused = 7, .lowered_rate = 100});
    EXPECT_TRUE(has(text, "# threads_refused: 7 ")) << text;
    EXPECT_TRUE(has(text, "# lowered_tick_rate: 100 ")) << text;
}

TEST_F(ProfileTest, TellsOfARateOnlyIfItWasLowered) {
    sample(1);
    const std::string text = finish();
    EXPECT_TRUE(has(text, "# threads_refused: 0 ")) << text;
    EXPECT_EQ(text.find("lowered_tick_rate"), text.npos);
}

}  // namespace
}  // namespace echion::cli
