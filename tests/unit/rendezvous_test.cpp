// How an agent connects to the program that launched its process, when others do so at that moment.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <thread>

#include "agent/channel.h"
#include "base/clock.h"
#include "control/control.h"
#include "platform/process_info.h"

namespace echion::agent {
namespace {

constexpr std::int64_t kPatienceNs = 20 * kNanosPerSecond;

/// Both ends of a socket; nothing that is sent or received waits.
struct Ends {
    Ends() {
        int fds[2];
        EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        taking.reset(fds[0]);
        sending.reset(fds[1]);
    }
    /// Takes all that is there; how many packets that were of a Connect's size.
    [[nodiscard]] int take_all() const {
        int connects = 0;
        std::array<char, 4096> packet{};
        for (;;) {
            const ssize_t size = recv(taking.get(), packet.data(), packet.size(), 0);
            if (size < 0) {
                return connects;
            }
            connects += size == sizeof(control::Connect) ? 1 : 0;
        }
    }
    UniqueFd taking;
    UniqueFd sending;
};

/// A rendezvous whose queue is full.
class FullRendezvous : public testing::Test {
  protected:
    FullRendezvous() {
        struct stat status {};
        EXPECT_EQ(fstat(ends_.sending.get(), &status), 0);
        const std::string value =
            std::to_string(ends_.sending.get()) + ":" + std::to_string(status.st_ino);
        setenv(control::kRendezvousVariable, value.c_str(), 1);
        rendezvous_ = Rendezvous::find();
        unsetenv(control::kRendezvousVariable);
        const std::array<char, 4096> other{};
        for (const std::size_t size_bytes : {other.size(), std::size_t{1}}) {
            while (send(ends_.sending.get(), other.data(), size_bytes, 0) > 0) {
            }
        }
        EXPECT_EQ(errno, EAGAIN);
    }
    /// Connects, and calls `meanwhile` once that waits. The errno, or 0.
    template <typename Function>
    int connect_beside(const Function& meanwhile) {
        std::atomic<pid_t> tid{0};
        int error = 0;
        std::thread connecting([&] {
            tid = static_cast<pid_t>(syscall(SYS_gettid));
            const auto channel = rendezvous_.connect(true);
            error = channel ? 0 : channel.error().system_errno;
        });
        const std::int64_t deadline_ns = monotonic_ns() + kPatienceNs;
        for (bool waits = false; !waits && monotonic_ns() < deadline_ns;) {
            const auto call = read_blocked_call(getpid(), tid);
            waits = call && call->number == SYS_ppoll;
        }
        meanwhile();
        connecting.join();
        return error;
    }

    Ends ends_;
    Rendezvous rendezvous_;
};

TEST_F(FullRendezvous, IsWaitedForUntilItHasRoom) {
    int connects = 0;  // the first room may be taken while the queue is still being emptied
    EXPECT_EQ(connect_beside([&] { connects += ends_.take_all(); }), 0);
    connects += ends_.take_all();
    EXPECT_EQ(connects, 1);
}

TEST_F(FullRendezvous, IsGivenUpWhenNobodyMakesRoom) {
    EXPECT_EQ(rendezvous_.connect(true).error().system_errno, EAGAIN);
}

TEST_F(FullRendezvous, WhoseNumberIsAnothersByThenIsLeftAlone) {
    const Ends programs;
    const UniqueFd kept(fcntl(ends_.sending.get(), F_DUPFD_CLOEXEC, 0));  // it does not hang up
    EXPECT_EQ(connect_beside([&] {
                  dup2(programs.sending.get(), ends_.sending.get());
                  EXPECT_EQ(ends_.take_all(), 0);
              }),
              EBADF);
    EXPECT_EQ(programs.take_all(), 0);
}

}  // namespace
}  // namespace echion::agent
