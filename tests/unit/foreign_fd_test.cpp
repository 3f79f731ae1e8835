// Descriptors that another process keeps from being closed.
#include "isolation/foreign_fd.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <thread>
#include <vector>

#include "base/clock.h"

namespace echion {
namespace {

constexpr std::size_t kClosers = 32;
constexpr std::int64_t kPatienceNs = 60 * kNanosPerSecond;
constexpr int kLingerS = 600;

/// A connection whose end cannot be closed as long as the other one, which reads nothing, lives.
struct Lingering {
    Lingering() {
        const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof(address);
        auto* const name = reinterpret_cast<sockaddr*>(&address);
        EXPECT_EQ(bind(listener.get(), name, size), 0);
        EXPECT_EQ(listen(listener.get(), 1), 0);
        EXPECT_EQ(getsockname(listener.get(), name, &size), 0);
        UniqueFd own(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        EXPECT_EQ(connect(own.get(), name, size), 0);
        other.reset(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
        const linger lingering{1, kLingerS};
        setsockopt(own.get(), SOL_SOCKET, SO_LINGER, &lingering, sizeof(lingering));
        std::array<char, 65536> some{};
        while (send(own.get(), some.data(), some.size(), MSG_DONTWAIT) > 0) {
        }
        number = own.get();
        foreign = ForeignFd(std::move(own));
    }

    int number = -1;
    ForeignFd foreign;
    UniqueFd other;
};

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

void await_none_waiting() {
    const std::int64_t deadline_ns = monotonic_ns() + kPatienceNs;
    while (ForeignFd::count_waiting() != 0 && monotonic_ns() < deadline_ns) {
        std::this_thread::yield();
    }
}

TEST(ForeignFd, ManyAreAllClosed) {
    std::vector<ForeignFd> many;
    std::vector<int> numbers;
    for (std::size_t i = 0; i < 8 * kClosers; ++i) {
        many.emplace_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
        numbers.push_back(many.back().get());
    }
    many.clear();
    const std::int64_t deadline_ns = monotonic_ns() + kPatienceNs;
    for (const int number : numbers) {
        while (is_open(number) && monotonic_ns() < deadline_ns) {
            std::this_thread::yield();
        }
        EXPECT_FALSE(is_open(number)) << number;
    }
}

TEST(ForeignFd, MoreThanAreStuckAreToldOfAndWait) {
    testing::internal::CaptureStderr();
    std::vector<Lingering> stuck(kClosers);
    for (Lingering& one : stuck) {
        one.foreign.reset();
    }
    await_none_waiting();  // each has a thread that closes it
    EXPECT_EQ(ForeignFd::count_waiting(), 0U);
    const std::int64_t told_ns = monotonic_ns() + kPatienceNs;
    std::vector<int> numbers;
    std::string told;
    // The user is told when they have been stuck for a second.
    while (told.find("do not come to close") == told.npos && monotonic_ns() < told_ns) {
        ForeignFd more(open("/dev/null", O_RDONLY | O_CLOEXEC));
        numbers.push_back(more.get());
        more.reset();
        told += testing::internal::GetCapturedStderr();
        testing::internal::CaptureStderr();
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    EXPECT_THAT(told, testing::HasSubstr("do not come to close"));
    EXPECT_EQ(ForeignFd::count_waiting(), numbers.size());
    for (const int number : numbers) {
        EXPECT_TRUE(is_open(number));
    }
    ForeignFd(open("/dev/null", O_RDONLY | O_CLOEXEC)).reset();
    EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "told once";
    stuck.front().other.reset();
    await_none_waiting();
    EXPECT_EQ(ForeignFd::count_waiting(), 0U);
}

}  // namespace
}  // namespace echion
