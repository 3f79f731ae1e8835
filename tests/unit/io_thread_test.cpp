// What is written to the program's standard error, whatever that is: nobody waits for it for long,
// also when another writer fills it just behind the look whether it has room.
#include "agent/io_thread.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <future>
#include <ostream>
#include <string>
#include <thread>

#include "fd_pairs.h"
#include "platform/own_descriptors.h"
#include "platform/wake_word.h"

namespace echion::agent {
namespace {

/// Another writer to standard error, on a thread of its own in the program's descriptor table. It
/// never blocks: it has a description of its own, but for a socket.
class OtherWriter {
  public:
    OtherWriter() {
        const std::string path = "/proc/self/fd/" + std::to_string(STDERR_FILENO);
        fd_.reset(open(path.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
        if (!fd_) {
            fd_.reset(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
        }
        current = this;
    }
    ~OtherWriter() {
        current = nullptr;
        set_and_wake(state_, kLeave);
        thread_.join();
    }
    OtherWriter(const OtherWriter&) = delete;
    OtherWriter& operator=(const OtherWriter&) = delete;

    /// Leaves no room. From any thread, one at a time.
    void fill() {
        set_and_wake(state_, kFill);
        wait_while(state_, kFill);
    }

    static std::atomic<OtherWriter*> current;

  private:
    enum State : std::uint32_t { kIdle, kFill, kLeave };

    void run() {
        for (;;) {
            wait_while(state_, kIdle);
            if (state_.load() == kLeave) {
                return;
            }
            for (const std::size_t size_bytes : {std::size_t{4096}, std::size_t{1}}) {
                while (write_some(size_bytes) > 0) {
                }
            }
            set_and_wake(state_, kIdle);
        }
    }
    [[nodiscard]] ssize_t write_some(std::size_t size_bytes) const {
        const std::array<char, 4096> some{};
        const ssize_t sent = send(fd_.get(), some.data(), size_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
        return sent < 0 && errno == ENOTSOCK ? ::write(fd_.get(), some.data(), size_bytes) : sent;
    }

    UniqueFd fd_;
    WakeWord state_{kIdle};
    std::thread thread_{[this] { run(); }};
};
std::atomic<OtherWriter*> OtherWriter::current{nullptr};

}  // namespace
}  // namespace echion::agent

/// In place of the C library's.
extern "C" int poll(pollfd* entries, nfds_t count, int timeout_ms) {
    timespec timeout{timeout_ms / 1000, timeout_ms % 1000 * 1'000'000L};
    const long ready = syscall(SYS_ppoll, entries, count, timeout_ms < 0 ? nullptr : &timeout,
                               nullptr, std::size_t{8});
    if (auto* writer = echion::agent::OtherWriter::current.load(); ready > 0 && writer != nullptr) {
        writer->fill();
    }
    return static_cast<int>(ready);
}

namespace echion::agent {
namespace {

// For what takes two seconds at most, on a busy machine.
constexpr std::chrono::seconds kPatience{30};

/// Two ends: what is read from one has been written to the other.
struct Ends {
    UniqueFd reading;
    UniqueFd writing;
};

Ends make_pipe() {
    test::Pipe pipe;
    return {std::move(pipe.reading), std::move(pipe.writing)};
}

Ends make_socket() {
    test::SocketPair pair(SOCK_STREAM);
    return {std::move(pair.first), std::move(pair.second)};
}

Ends make_terminal() {
    int controller = -1;
    int terminal = -1;
    EXPECT_EQ(openpty(&controller, &terminal, nullptr, nullptr, nullptr), 0);
    termios modes{};
    tcgetattr(terminal, &modes);
    cfmakeraw(&modes);
    tcsetattr(terminal, TCSANOW, &modes);
    return {UniqueFd(controller), UniqueFd(terminal)};
}

Ends make_fifo() {
    char folder[] = "/tmp/echion-io-XXXXXX";
    EXPECT_NE(mkdtemp(folder), nullptr);
    const std::string path = std::string(folder) + "/fifo";
    EXPECT_EQ(mkfifo(path.c_str(), 0600), 0);
    Ends ends;
    ends.reading.reset(open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    ends.writing.reset(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    fcntl(ends.reading.get(), F_SETFL, 0);
    std::filesystem::remove_all(folder);
    return ends;
}

std::string read_all(int fd, std::size_t size_bytes) {
    std::string text(size_bytes, '?');
    std::size_t filled = 0;
    while (filled < size_bytes) {
        const ssize_t got = ::read(fd, text.data() + filled, size_bytes - filled);
        if (got <= 0) {
            break;
        }
        filled += static_cast<std::size_t>(got);
    }
    text.resize(filled);
    return text;
}

/// An IoThread, and what its standard error is.
class IoThreadTest : public testing::Test {
  protected:
    void begin(Ends ends) {
        ends_ = std::move(ends);
        before_.reset(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3));
        ASSERT_EQ(dup2(ends_.writing.get(), STDERR_FILENO), STDERR_FILENO);
        // As the agent's threads: SIGPIPE, for one, ends nobody.
        sigset_t all;
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &signals_);
        thread_ = std::thread([this] {
            io_.begin();
            io_.wait_until_settled();
            io_.serve();
        });
        io_.settle();
        while (io_.tid() == 0) {
            std::this_thread::yield();
        }
    }
    void TearDown() override {
        io_.end();
        dup2(before_.get(), STDERR_FILENO);
        // Whoever writes goes on by this.
        ends_.writing.reset();
        ends_.reading.reset();
        thread_.join();
        const timespec now{};
        sigset_t pipe;
        sigemptyset(&pipe);
        sigaddset(&pipe, SIGPIPE);
        sigtimedwait(&pipe, nullptr, &now);
        pthread_sigmask(SIG_SETMASK, &signals_, nullptr);
    }
    /// Writes from a thread that has a table of its own; false also when that takes too long.
    bool write_error(const std::string& text) {
        std::promise<bool> promise;
        auto answer = promise.get_future();
        std::thread sampler([&] {
            const UniqueFd kept(open("/dev/null", O_RDONLY | O_CLOEXEC));
            const bool has_own_table = leave_descriptor_table(kept.get(), true);
            io_.set_own_table(has_own_table);
            promise.set_value(io_.write_error(text));
        });
        is_late_ = answer.wait_for(kPatience) != std::future_status::ready;
        if (is_late_) {
            ends_.reading.reset();
        }
        sampler.join();
        return answer.get() && !is_late_;
    }
    /// Of the calling thread's table, in which everything else is, too.
    bool write_error_beside(const std::string& text) {
        io_.set_own_table(false);
        auto answer = std::async(std::launch::async, [&] { return io_.write_error(text); });
        is_late_ = answer.wait_for(kPatience) != std::future_status::ready;
        if (is_late_) {
            ends_.reading.reset();
        }
        return answer.get() && !is_late_;
    }

    Ends ends_;
    UniqueFd before_;
    sigset_t signals_{};
    IoThread io_;
    std::thread thread_;
    bool is_late_ = false;
};

struct Kind {
    const char* name;
    Ends (*make)();
};

void PrintTo(const Kind& kind, std::ostream* stream) { *stream << kind.name; }

class WhateverItIs : public IoThreadTest, public testing::WithParamInterface<Kind> {};

INSTANTIATE_TEST_SUITE_P(IoThread, WhateverItIs,
                         testing::Values(Kind{"pipe", make_pipe}, Kind{"fifo", make_fifo},
                                         Kind{"terminal", make_terminal},
                                         Kind{"socket", make_socket}),
                         [](const auto& kind) { return kind.param.name; });

TEST_P(WhateverItIs, TakesTheWholeTextInOrder) {
    begin(GetParam().make());
    std::string text;
    for (int i = 0; i < 40'000; ++i) {
        text += std::to_string(i) + " ";
    }
    auto read =
        std::async(std::launch::async, [&] { return read_all(ends_.reading.get(), text.size()); });
    EXPECT_TRUE(write_error(text));
    EXPECT_EQ(read.get(), text);
    EXPECT_EQ(io_.is_terminal(), std::string("terminal") == GetParam().name);
}

TEST_P(WhateverItIs, IsGivenUpWhenItIsFull) {
    begin(GetParam().make());
    EXPECT_FALSE(write_error(std::string(std::size_t{4} << 20, 'y')));
    EXPECT_FALSE(is_late_);
}

TEST_P(WhateverItIs, IsGivenUpWhenAnotherFillsItJustThen) {
    begin(GetParam().make());
    const OtherWriter other;
    // A terminal that has been filled soon has room again for some.
    EXPECT_FALSE(write_error(std::string(std::size_t{1} << 20, 'y')));
    EXPECT_FALSE(is_late_);
}

TEST_P(WhateverItIs, KeepsTheSamplerNotForLongWhereItMayNotBeOpenedAnew) {
    begin(GetParam().make());
    const OtherWriter other;
    EXPECT_FALSE(write_error_beside(std::string(std::size_t{4} << 20, 'y')));
    EXPECT_FALSE(is_late_);
    EXPECT_FALSE(write_error_beside("too soon, or full"));
    EXPECT_FALSE(is_late_);
}

TEST_P(WhateverItIs, TakesTheWholeTextWhereItMayNotBeOpenedAnew) {
    begin(GetParam().make());
    const std::string text(100'000, 'z');
    auto read =
        std::async(std::launch::async, [&] { return read_all(ends_.reading.get(), text.size()); });
    EXPECT_TRUE(write_error_beside(text));
    EXPECT_EQ(read.get(), text);
}

TEST_P(WhateverItIs, KeepsItsFlagsOfTheProgram) {
    begin(GetParam().make());
    EXPECT_TRUE(write_error("some"));
    EXPECT_EQ(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK, 0);
}

TEST_F(IoThreadTest, AppendsToAFileWhereTheProgramIsInIt) {
    char path[] = "/tmp/echion-io-XXXXXX";
    const UniqueFd file(mkstemp(path));
    unlink(path);
    begin({UniqueFd(), UniqueFd(fcntl(file.get(), F_DUPFD_CLOEXEC, 3))});
    ASSERT_EQ(::write(file.get(), "one ", 4), 4);
    EXPECT_TRUE(write_error("two "));
    ASSERT_EQ(::write(file.get(), "three", 5), 5);
    std::array<char, 32> text{};
    EXPECT_EQ(pread(file.get(), text.data(), text.size(), 0), 13);
    EXPECT_STREQ(text.data(), "one two three");
}

TEST_F(IoThreadTest, FailsWhereThereIsNoStandardError) {
    begin(make_pipe());
    close(STDERR_FILENO);
    const bool is_written = write_error("lost");
    dup2(ends_.writing.get(), STDERR_FILENO);
    EXPECT_FALSE(is_written);
}

}  // namespace
}  // namespace echion::agent
