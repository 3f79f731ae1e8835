// Agents that do not do what is waited for: one that never begins, and one whose channel goes.
#include "cli/profiling_run.h"

#include <gmock/gmock.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>

#include "fd_pairs.h"

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
    void answer_stop() const {
        control::Stop stop{};
        (void)!recv(socket_, &stop, sizeof(stop), 0);
        send_message(make<control::Stopped>(control::MessageType::kStopped));
    }
    void answer_stop_without_python() const {
        control::Stop stop{};
        (void)!recv(socket_, &stop, sizeof(stop), 0);
        auto failed = make<control::Failed>(control::MessageType::kFailed);
        failed.error_kind = static_cast<std::uint32_t>(ErrorKind::kNotReady);
        send_message(failed);
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
        test::SocketPair pair(SOCK_SEQPACKET);
        const int channel_fd = pair.first.get();
        auto channel = Channel::adopt(ForeignFd(std::move(pair.first))).value();
        pid = fork();
        if (pid == 0) {
            close(channel_fd);
            behaviour(Peer(pair.second.release()));
            for (;;) {
                pause();
            }
        }
        return channel;
    }

    std::string folder;
    pid_t pid = -1;
};

/// An attachment whose agent behaves so.
class AttachmentTest : public AgentProcessTest {
  protected:
    void attach(const std::function<void(const Peer&)>& behaviour,
                std::int64_t start_deadline_ns = kStartDeadlineNs) {
        Channel channel = start(behaviour);
        options.attach_pid = pid;
        options.engine = &engine::own_clock();
        options.output = folder + "/out";
        options.output_is_default = false;
        engine.emplace(options);
        run_ = ProfilingRun::make(loop, options, *engine, pid, start_deadline_ns).value();
        run_->on_agent_gone([this] { run_->stop(); });
        run_->on_finished([this] {
            outcome = run_->write_summary();
            loop.stop();
        });
        run_->add_agent(std::move(channel), pid);
    }
    /// What a user's signal does.
    void interrupt() {
        run_->note_signal(SIGINT);
        run_->leave_no_empty_file();
        run_->stop();
    }
    std::string run() {
        testing::internal::CaptureStderr();
        EXPECT_TRUE(loop.run());
        return testing::internal::GetCapturedStderr();
    }

    EventLoop loop = EventLoop::make().value();
    Options options;
    std::optional<EngineChoice> engine;
    std::unique_ptr<ProfilingRun> run_;
    Outcome outcome = Outcome::kGood;
};

TEST(CutDescriptors, AreTheLimitsOrASecurityModules) {
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    EXPECT_EQ(explain_cut(pair[0]).kind, ErrorKind::kRefused);
    rlimit before{};
    getrlimit(RLIMIT_NOFILE, &before);
    const rlimit none{0, before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    const Error cause = explain_cut(pair[0]);
    setrlimit(RLIMIT_NOFILE, &before);
    EXPECT_EQ(cause.system_errno, EMFILE);
    close(pair[0]);
    close(pair[1]);
}

TEST_F(AttachmentTest, OneThatNeverBeginsIsGivenUpAndLeavesNoFile) {
    constexpr std::int64_t kShortly = 1;
    options.exposure_ns = 1;
    attach([](const Peer& peer) { peer.say_hello(); }, kShortly);
    EXPECT_THAT(run(), HasSubstr("the agent has not begun to sample"));
    EXPECT_EQ(outcome, Outcome::kNotAllSampled);
    EXPECT_FALSE(std::filesystem::exists(options.output));
}

TEST_F(AttachmentTest, OneThatIsStoppedIsGivenUpWhenTheTimeIsOver) {
    options.exposure_ns = 1;
    attach([](const Peer& peer) {
        peer.say_hello();
        raise(SIGSTOP);
    });
    EXPECT_THAT(run(), HasSubstr("has been stopped or frozen"));
    EXPECT_FALSE(std::filesystem::exists(options.output));
}

TEST_F(AttachmentTest, OneThatIsInterruptedBeforeItsFirstSampleLeavesNoFile) {
    attach([](const Peer& peer) {
        peer.say_hello();
        peer.answer_stop();
    });
    auto timer = Timer::make(loop, [this] { interrupt(); }).value();
    timer.arm(1);
    EXPECT_THAT(run(), HasSubstr("there is no profile: SIGINT came before the first sample"));
    EXPECT_FALSE(run_->has_samples());
    EXPECT_FALSE(std::filesystem::exists(options.output));
}

TEST_F(AttachmentTest, OneWithoutPythonIsGivenUpForThatReason) {
    constexpr std::int64_t kShortly = 1;
    attach(
        [](const Peer& peer) {
            peer.say_hello();
            peer.answer_stop_without_python();
        },
        kShortly);
    EXPECT_THAT(run(), HasSubstr("Python has not started in it, or has ended"));
    EXPECT_EQ(outcome, Outcome::kNotAllSampled);
    EXPECT_FALSE(std::filesystem::exists(options.output));
}

TEST_F(AttachmentTest, OneWithoutPythonThatIsInterruptedIsNotToBlame) {
    attach([](const Peer& peer) {
        peer.say_hello();
        peer.answer_stop_without_python();
    });
    auto timer = Timer::make(loop, [this] { interrupt(); }).value();
    timer.arm(1);
    EXPECT_THAT(run(), HasSubstr("there is no profile: SIGINT came before the first sample"));
    EXPECT_EQ(outcome, Outcome::kGood);
}

TEST_F(AttachmentTest, OneThatIsInterruptedAfterItsFirstSampleLeavesAProfile) {
    attach([](const Peer& peer) {
        peer.say_hello();
        peer.say_started(getpid(), false);
        peer.answer_stop();
    });
    run_->on_first_sample([this] { interrupt(); });
    (void)run();
    EXPECT_TRUE(run_->has_samples());
    EXPECT_TRUE(std::filesystem::exists(options.output));
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
