#include "cli/lost_samplers.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "base/clock.h"

namespace echion::cli {
namespace {

/// A process that waits until it is killed.
class Waiting {
  public:
    Waiting() : pid_(fork()) {
        if (pid_ == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;) {
                pause();
            }
        }
    }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;
    ~Waiting() { end(); }

    void end() {
        if (pid_ > 0) {
            kill(pid_, SIGKILL);
            waitpid(std::exchange(pid_, -1), nullptr, 0);
        }
    }
    [[nodiscard]] pid_t pid() const { return pid_; }
    [[nodiscard]] AgentProcess pin() const {
        auto process = AgentProcess::pin(pid_);
        EXPECT_TRUE(process) << process.error().what;
        return std::move(*process);
    }

  private:
    pid_t pid_;
};

class LostSamplersTest : public testing::Test {
  protected:
    /// The processes that are told of after `later_ns`.
    std::vector<pid_t> look(std::int64_t later_ns, pid_t sampled = 0) {
        std::vector<pid_t> told;
        samplers_.look(
            now_ns_ + later_ns, [sampled](pid_t pid) { return pid == sampled; },
            [&told](pid_t pid) { told.push_back(pid); });
        return told;
    }

    const std::int64_t now_ns_ = monotonic_ns();
    LostSamplers samplers_;
};

TEST_F(LostSamplersTest, AProcessThatGoesOnIsToldOfOnceAfterASecond) {
    const Waiting process;
    samplers_.add(process.pin(), now_ns_);
    EXPECT_TRUE(look(kNanosPerSecond / 2).empty());
    EXPECT_EQ(look(2 * kNanosPerSecond), std::vector{process.pid()});
    EXPECT_TRUE(samplers_.is_empty());
    EXPECT_TRUE(look(3 * kNanosPerSecond).empty());
}

TEST_F(LostSamplersTest, OneThatHasEndedIsNot) {
    Waiting process;
    samplers_.add(process.pin(), now_ns_);
    process.end();
    EXPECT_TRUE(look(2 * kNanosPerSecond).empty());
    EXPECT_TRUE(samplers_.is_empty());
}

TEST_F(LostSamplersTest, OneThatIsSampledAgainIsNot) {
    const Waiting process;
    samplers_.add(process.pin(), now_ns_);
    EXPECT_TRUE(look(2 * kNanosPerSecond, process.pid()).empty());
    EXPECT_TRUE(samplers_.is_empty());
}

TEST_F(LostSamplersTest, ThoseThatThereIsNoRoomForAreCounted) {
    const Waiting process;
    for (int i = 0; i < 66; ++i) {
        samplers_.add(process.pin(), now_ns_);
    }
    EXPECT_EQ(samplers_.unwatched(), 2U);
    samplers_.clear();
    EXPECT_TRUE(samplers_.is_empty());
}

}  // namespace
}  // namespace echion::cli
