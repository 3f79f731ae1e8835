// A thread with a descriptor table of its own, and the one that stays in the program's.
#include "agent/descriptors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <thread>

#include "base/unique_fd.h"
#include "fd_pairs.h"
#include "platform/own_descriptors.h"
#include "platform/wake_word.h"

namespace echion::agent {
namespace {

using echion::test::Pipe;

bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

/// A number that is free here.
int find_free() {
    const int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    close(fd);
    return fd;
}

class DescriptorTable : public testing::Test {
  protected:
    /// Runs `work` on a thread that has left this one's table, but for `kept`.
    template <typename Work>
    void run_apart(int kept, const Work& work) {
        std::thread([&] {
            ASSERT_TRUE(leave_descriptor_table(kept, false));
            work();
        }).join();
    }
};

TEST_F(DescriptorTable, HoldsNothingButWhatIsKept) {
    Pipe kept;
    Pipe other;
    const UniqueFd high(fcntl(other.reading.get(), F_DUPFD_CLOEXEC, 300));
    ASSERT_TRUE(high);
    run_apart(kept.writing.get(), [&] {
        for (int fd = 0; fd < 1024; ++fd) {
            EXPECT_EQ(is_open(fd), fd == kept.writing.get()) << fd;
        }
        EXPECT_EQ(write(kept.writing.get(), "x", 1), 1);
    });
    for (const int fd :
         {kept.writing.get(), other.reading.get(), other.writing.get(), high.get()}) {
        EXPECT_TRUE(is_open(fd)) << "closed for the others as well";
    }
    char byte = 0;
    EXPECT_EQ(read(kept.reading.get(), &byte, 1), 1);
}

TEST_F(DescriptorTable, KeepsADescriptorAboveTheOthers) {
    Pipe kept;
    const UniqueFd high(fcntl(kept.writing.get(), F_DUPFD_CLOEXEC, 900));
    ASSERT_TRUE(high);
    run_apart(high.get(), [&] {
        EXPECT_FALSE(is_open(kept.writing.get()));
        EXPECT_EQ(write(high.get(), "x", 1), 1);
    });
}

TEST_F(DescriptorTable, ClosesNoFileForTheOthersAndTakesNoneOfTheirNumbers) {
    Pipe kept;
    const int free = find_free();
    run_apart(kept.writing.get(), [&] {
        const UniqueFd own(open("/dev/null", O_RDONLY | O_CLOEXEC));
        EXPECT_TRUE(own);
    });
    EXPECT_EQ(find_free(), free);
    EXPECT_TRUE(is_open(kept.writing.get()));
}

TEST_F(DescriptorTable, KeepsNoStreamOfTheOthersOpen) {
    Pipe other;
    Pipe stop;
    WakeWord has_left{0};
    std::thread apart([&] {
        ASSERT_TRUE(leave_descriptor_table(stop.reading.get(), false));
        set_and_wake(has_left, 1);
        char byte = 0;
        EXPECT_EQ(read(stop.reading.get(), &byte, 1), 1);
    });
    wait_while(has_left, 0);
    other.writing.reset();
    pollfd entry{other.reading.get(), POLLIN, 0};
    EXPECT_EQ(poll(&entry, 1, 0), 1);
    EXPECT_NE(entry.revents & POLLHUP, 0);
    EXPECT_EQ(write(stop.writing.get(), "x", 1), 1);
    apart.join();
}

TEST(MoveUp, LeavesTheNumbersOfStandardStreamsInATableOfItsOwn) {
    std::thread([] {
        Pipe kept;
        const int number = kept.writing.get();
        ASSERT_TRUE(leave_descriptor_table(number, false));
        UniqueFd low(open("/dev/null", O_RDONLY | O_CLOEXEC));
        ASSERT_EQ(low.get(), 0);
        const UniqueFd moved = move_up(std::move(low), true);
        EXPECT_GE(moved.get(), 3);
        EXPECT_FALSE(is_open(0));
    }).join();
}

TEST(MoveUp, TakesAHighNumberInTheTableOfOthers) {
    UniqueFd low(open("/dev/null", O_RDONLY | O_CLOEXEC));
    const int before = low.get();
    const UniqueFd moved = move_up(std::move(low), false);
    EXPECT_GE(moved.get(), 900);
    EXPECT_FALSE(is_open(before));
    EXPECT_EQ(fcntl(moved.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST(MoveUp, TakesWhatALowLimitLeaves) {
    rlimit before{};
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
    const rlimit low_limit{100, before.rlim_max};
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low_limit), 0);
    const UniqueFd moved = move_up(UniqueFd(open("/dev/null", O_RDONLY | O_CLOEXEC)), false);
    EXPECT_GE(moved.get(), 50);
    EXPECT_LT(moved.get(), 100);
    setrlimit(RLIMIT_NOFILE, &before);
}

}  // namespace
}  // namespace echion::agent
