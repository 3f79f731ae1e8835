// Agents that do not do what is waited for: one that never begins, and one whose channel goes.
#include "cli/sampling.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>

namespace echion::cli {
namespace {

using ::testing::HasSubstr;

/// An agent's side of a channel.
class Peer {
  public:
    explicit Peer(int socket) : socket_(socket) {}

    void say_hello() const {
        auto hello = make<control::Hello>(control::MessageType::kHello);
        std::strncpy(hello.agent_version, ECHION_VERSION, sizeof(hello.agent_version) - 1);
        hello.pointer_bytes = sizeof(void*);
        send_message(hello);
        control::Configure settings{};
        (void)!recv(socket_, &settings, sizeof(settings), 0);
    }
    void say_started(pid_t sampler, bool shares_table) const {
        auto started = make<control::Started>(control::MessageType::kStarted);
        started.sampler_tid = static_cast<std::uint32_t>(sampler);
        started.shares_table = shares_table ? 1 : 0;
        send_message(started);
    }
    void hang_up() const { close(socket_); }

  private:
    template <typename T>
    static T make(control::MessageType type) {
        T message{};
        message.header = make_header<T>(type);
        return message;
    }
    template <typename T>
    void send_message(const T& message) const {
        (void)send(socket_, &message, sizeof(message), MSG_NOSIGNAL);
    }

    int socket_;
};

/// A process with an agent in it, of which the behaviour is given; it lives until the test's end.
class AgentProcessTest : public testing::Test {
  protected:
    AgentProcessTest() {
        folder = testing::TempDir() + "echion-test-XXXXXX";
        EXPECT_NE(mkdtemp(folder.data()), nullptr);
    }
    ~AgentProcessTest() override {
        if (pid > 0) {
            kill(pid, SIGKILL);
            waitpid(pid, nullptr, 0);
        }
        std::filesystem::remove_all(folder);
    }

    Channel start(const std::function<void(const Peer&)>& behaviour) {
        int pair[2];
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        auto channel = Channel::adopt(ForeignFd(UniqueFd(pair[0]))).value();
        pid = fork();
        if (pid == 0) {
            close(pair[0]);
            behaviour(Peer(pair[1]));
            for (;;) {
                pause();
            }
        }
        close(pair[1]);
        return channel;
    }

    std::string folder;
    pid_t pid = -1;
};

TEST_F(AgentProcessTest, OneThatNeverBeginsIsGivenUpAndLeavesNoFile) {
    Channel channel = start([](const Peer& peer) { peer.say_hello(); });
    Options options;
    options.attach_pid = pid;
    options.exposure_ns = 1;
    options.engine = Engine::kClock;
    options.output = folder + "/out";
    options.output_is_default = false;
    auto loop = EventLoop::make().value();
    KernelSide kernel(options);
    constexpr std::int64_t kShortly = 1;
    auto sampling = Sampling::make(loop, options, kernel, pid, kShortly).value();
    Outcome outcome = Outcome::kGood;
    sampling->on_agent_gone([&] { sampling->stop(); });
    sampling->on_finished([&] {
        outcome = sampling->write_summary();
        loop.stop();
    });
    testing::internal::CaptureStderr();
    sampling->add_agent(std::move(channel), pid);
    EXPECT_TRUE(loop.run());
    EXPECT_THAT(testing::internal::GetCapturedStderr(),
                HasSubstr("the agent has not begun to sample"));
    EXPECT_EQ(outcome, Outcome::kNotAllSampled);
    EXPECT_FALSE(std::filesystem::exists(options.output));
}

class CutOffTest : public AgentProcessTest {
  protected:
    /// How a session goes on when its channel hangs up, though its process lives.
    bool goes_on(const std::function<void(const Peer&)>& start_sampling) {
        Channel channel = start([&](const Peer& peer) {
            peer.say_hello();
            start_sampling(peer);
            peer.hang_up();
        });
        Profile profile(output::OutputFile::open(folder + "/out").value(), {});
        SessionSettings settings;
        settings.ring_bytes = stream::kMinRingBytes;
        Session session(profile, settings, std::move(channel), pid);
        session.expect_end();
        while (!session.has_ended() && !session.is_cut_off()) {
            pollfd entry{session.fd(), POLLIN, 0};
            EXPECT_EQ(poll(&entry, 1, 60'000), 1);
            session.on_readable();
        }
        return session.is_cut_off();
    }
};

TEST_F(CutOffTest, GoesOnWhileTheSamplersThreadIsThere) {
    // Whatever the process has mapped: reading that could take as long as the process likes.
    EXPECT_TRUE(goes_on([](const Peer& peer) { peer.say_started(gettid(), true); }));
}

TEST_F(CutOffTest, EndsWithTheSamplersThread) {
    constexpr pid_t kNoThread = 0x7fffffff;
    EXPECT_FALSE(goes_on([](const Peer& peer) { peer.say_started(kNoThread, true); }));
}

TEST_F(CutOffTest, EndsWhenOnlyTheSamplerCouldHangUp) {
    EXPECT_FALSE(goes_on([](const Peer& peer) { peer.say_started(gettid(), false); }));
}

}  // namespace
}  // namespace echion::cli
