#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "engine/bpf/bpf_session.h"
#include "engine/bpf/cpu_state_map.h"

namespace echion::test {

/// What a test waits for comes within this, on a machine that is busy elsewhere too; what does not
/// come fails the test long before the test runner's own limit.
constexpr int kPatienceMs = 40'000;

/// Looks every millisecond until the condition holds. False when that takes too long.
template <typename Condition>
[[nodiscard]] bool comes_true(Condition&& condition) {
    const std::int64_t end = monotonic_ns() + kPatienceMs * std::int64_t{1'000'000};
    while (!condition()) {
        if (monotonic_ns() > end) {
            return false;
        }
        ::usleep(1000);
    }
    return true;
}

/// A forked process that runs `body(channel)`, and a pipe in each direction. Killed at the end.
class Child {
  public:
    /// The child's ends, and how it talks: single values, in order. One thread at a time receives.
    struct Channel {
        int in;
        int out;
        template <typename T>
        T receive() const {
            T value{};
            if (::read(in, &value, sizeof(value)) != sizeof(value)) {
                ::_exit(3);
            }
            return value;
        }
        template <typename T>
        void send(const T& value) const {
            if (::write(out, &value, sizeof(value)) != static_cast<ssize_t>(sizeof(value))) {
                ::_exit(4);
            }
        }
        /// Sleeps until the test ends the process.
        [[noreturn]] void rest() const {
            char byte = 0;
            while (::read(in, &byte, 1) > 0) {
            }
            ::_exit(0);
        }
    };

    explicit Child(const std::function<void(const Channel&)>& body) {
        int to[2];
        int from[2];
        if (::pipe2(to, O_CLOEXEC) != 0 || ::pipe2(from, O_CLOEXEC) != 0) {
            std::perror("pipe2");
            std::abort();
        }
        pid_ = ::fork();
        if (pid_ == 0) {
            ::close(to[1]);
            ::close(from[0]);
            body({to[0], from[1]});
            ::_exit(0);
        }
        ::close(to[0]);
        ::close(from[1]);
        to_.reset(to[1]);
        from_.reset(from[0]);
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;
    ~Child() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            ::waitpid(pid_, nullptr, 0);
        }
    }

    [[nodiscard]] pid_t pid() const { return pid_; }
    template <typename T>
    T receive() const {
        T value{};
        pollfd poll{from_.get(), POLLIN, 0};
        EXPECT_EQ(::poll(&poll, 1, kPatienceMs), 1) << "no word from the child";
        if ((poll.revents & (POLLIN | POLLHUP)) == 0) {
            return value;
        }
        const ssize_t size = ::read(from_.get(), &value, sizeof(value));
        EXPECT_EQ(size, static_cast<ssize_t>(sizeof(value))) << "the child has gone";
        return value;
    }
    template <typename T>
    void send(const T& value) const {
        EXPECT_EQ(::write(to_.get(), &value, sizeof(value)), static_cast<ssize_t>(sizeof(value)));
    }
    /// Lets it end by itself; its exit status.
    int wait() {
        to_.reset();
        int status = 0;
        ::waitpid(pid_, &status, 0);
        pid_ = 0;
        return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }

  private:
    pid_t pid_ = 0;
    UniqueFd to_;
    UniqueFd from_;
};

inline pid_t current_tid() { return static_cast<pid_t>(::syscall(SYS_gettid)); }

inline void block_all_signals() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

/// CPU time of the calling thread, as the kernel counts it.
inline std::int64_t own_cpu_ns() { return read_clock_ns(CLOCK_THREAD_CPUTIME_ID); }

/// Keeps the calling thread busy for so much of its CPU time.
inline void burn(std::int64_t cpu_ns) {
    const std::int64_t end = own_cpu_ns() + cpu_ns;
    while (own_cpu_ns() < end) {
    }
}

/// A test that needs a session: skipped, with the reason, where there can be none.
class SessionTest : public ::testing::Test {
  protected:
    using BpfOptions = engine::BpfOptions;
    using BpfSession = engine::BpfSession;

    void SetUp() override {
        static const std::string reason = [] {
            const auto session = BpfSession::open({});
            return session ? std::string() : session.error().text();
        }();
        if (!reason.empty()) {
            GTEST_SKIP() << reason;
        }
    }

    void open(const BpfOptions& options = {}) {
        auto session = BpfSession::open(options);
        ASSERT_TRUE(session) << session.error().text();
        session_ = std::move(*session);
        auto states = engine::CpuStateMap::open(session_->state_fd());
        ASSERT_TRUE(states);
        states_ = std::make_unique<engine::CpuStateMap>(std::move(*states));
    }

    /// The latest thread that had this number, ended or not.
    [[nodiscard]] Result<engine::CpuState> find(std::uint32_t session_tid) const {
        Result<engine::CpuState> found = fail(ErrorKind::kInvalid, "no such thread");
        for (std::uint32_t slot = 0; slot < states_->used(); ++slot) {
            const auto state = states_->read(slot);
            if (state && state->session_tid == session_tid &&
                (!found || state->started_ns > found->started_ns)) {
                found = state;
            }
        }
        return found;
    }

    std::unique_ptr<BpfSession> session_;
    std::unique_ptr<engine::CpuStateMap> states_;
};

}  // namespace echion::test
