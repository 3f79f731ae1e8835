// Which children of a process count, by real processes: whose number is another's meanwhile, and
// how much is done in one look.

#include "cli/forked_children.h"

#include <gmock/gmock.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <limits>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "fd_pairs.h"
#include "platform/program_image.h"

namespace echion::cli {
namespace {

using test::Pipe;
using testing::Contains;
using testing::Not;

constexpr std::int64_t kAlways = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kPatienceNs = 20 * kNanosPerSecond;

/// A process with children that do nothing; all end with it, and it with the test.
class Parent {
  public:
    explicit Parent(int children) {
        pid_ = fork();
        if (pid_ == 0) {
            run(children);
        }
        for (int i = 0; i < children; ++i) {
            pid_t child = 0;
            EXPECT_EQ(read(words_.reading.get(), &child, sizeof(child)), ssize_t{sizeof(child)});
            children_.push_back(child);
        }
    }
    ~Parent() {
        for (const pid_t child : children_) {
            kill(child, SIGKILL);
        }
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
    }
    Parent(const Parent&) = delete;
    Parent& operator=(const Parent&) = delete;

    [[nodiscard]] ForkedChildren::Key key() const {
        return {pid_, read_descent(pid_)->start_ticks};
    }
    [[nodiscard]] pid_t child() const { return children_.front(); }

    /// Ends the first child; its number is free behind that.
    pid_t reap_child() {
        const pid_t child = children_.front();
        children_.erase(children_.begin());
        kill(child, SIGKILL);
        EXPECT_EQ(write(orders_.writing.get(), &child, sizeof(child)), ssize_t{sizeof(child)});
        pid_t reaped = 0;
        EXPECT_EQ(read(words_.reading.get(), &reaped, sizeof(reaped)), ssize_t{sizeof(reaped)});
        EXPECT_EQ(reaped, child);
        return child;
    }

  private:
    [[noreturn]] void run(int children) {
        for (int i = 0; i < children; ++i) {
            const pid_t child = fork();
            if (child == 0) {
                for (;;) {
                    pause();
                }
            }
            (void)!write(words_.writing.get(), &child, sizeof(child));
        }
        pid_t wanted = 0;
        while (read(orders_.reading.get(), &wanted, sizeof(wanted)) == ssize_t{sizeof(wanted)}) {
            const pid_t reaped = waitpid(wanted, nullptr, 0);
            (void)!write(words_.writing.get(), &reaped, sizeof(reaped));
        }
        for (;;) {
            pause();
        }
    }

    Pipe words_;
    Pipe orders_;
    pid_t pid_ = -1;
    std::vector<pid_t> children_;
};

/// Looks until so many count.
void look_until(ForkedChildren& forked, const Parent& parent, std::size_t count) {
    const ForkedChildren::Key parents[] = {parent.key()};
    for (const std::int64_t until_ns = monotonic_ns() + kPatienceNs; forked.count() != count;) {
        ASSERT_LT(monotonic_ns(), until_ns) << forked.count() << " of " << count;
        forked.look(parents, true, kAlways);
        sched_yield();
    }
}

/// fork(2) to a number of our choice.
pid_t fork_as(pid_t pid) {
    clone_args arguments{};
    arguments.exit_signal = SIGCHLD;
    arguments.set_tid = reinterpret_cast<std::uint64_t>(&pid);
    arguments.set_tid_size = 1;
    return static_cast<pid_t>(syscall(SYS_clone3, &arguments, sizeof(arguments)));
}

TEST(ForkedChildren, TakeNoOtherProcessWithTheSameNumberForOne) {
    Parent parent(1);
    ForkedChildren forked;
    look_until(forked, parent, 1);
    EXPECT_THAT(forked.list(5), testing::ElementsAre(parent.child()));

    const pid_t number = parent.reap_child();
    Pipe words;
    const pid_t other = fork_as(number);
    if (other == 0) {
        const pid_t child = fork();
        if (child != 0) {
            (void)!write(words.writing.get(), &child, sizeof(child));
        }
        for (;;) {
            pause();
        }
    }
    if (other < 0) {
        GTEST_SKIP() << "no process of a chosen number: " << strerror(errno);
    }
    pid_t others_child = 0;
    ASSERT_EQ(read(words.reading.get(), &others_child, sizeof(others_child)),
              ssize_t{sizeof(others_child)});
    // Until it would count, if it did.
    Parent control(1);
    ForkedChildren controls;
    look_until(controls, control, 1);

    const ForkedChildren::Key parents[] = {parent.key()};
    forked.look(parents, true, kAlways);
    forked.look(parents, true, kAlways);
    EXPECT_EQ(forked.count(), 1U);
    EXPECT_THAT(forked.list(5), Not(Contains(others_child)));
    EXPECT_FALSE(forked.has_living());
    forked.settle();
    EXPECT_EQ(forked.count(), 1U) << "the other process is none of them";
    EXPECT_FALSE(forked.has_living());

    kill(others_child, SIGKILL);
    kill(other, SIGKILL);
    waitpid(other, nullptr, 0);
}

TEST(ForkedChildren, OfAnotherProcessThanTheSampledOneAreNone) {
    const Parent parent(1);
    ForkedChildren right;
    look_until(right, parent, 1);
    ForkedChildren wrong;
    const ForkedChildren::Key parents[] = {{parent.key().first, parent.key().second + 1}};
    wrong.look(parents, true, kAlways);
    wrong.look(parents, false, kAlways);
    EXPECT_EQ(wrong.count(), 0U);
    ForkedChildren unknown;
    const ForkedChildren::Key of_unknown_start[] = {{parent.key().first, 0}};
    unknown.look(of_unknown_start, false, kAlways);
    EXPECT_EQ(unknown.count(), 1U);
}

TEST(ForkedChildren, AreDeadWhenTheyWereReaped) {
    Parent parent(1);
    ForkedChildren forked;
    look_until(forked, parent, 1);
    forked.settle();
    EXPECT_TRUE(forked.has_living());
    parent.reap_child();
    const ForkedChildren::Key parents[] = {parent.key()};
    forked.look(parents, true, kAlways);
    EXPECT_FALSE(forked.has_living());
    forked.settle();
    EXPECT_EQ(forked.count(), 1U);
    EXPECT_FALSE(forked.has_living());
}

TEST(ForkedChildren, AreLookedAtOneByOneWhereTheTimeIsOver) {
    constexpr int kChildren = 20;
    const Parent parent(kChildren);
    ForkedChildren all;
    look_until(all, parent, kChildren);  // they have lived for long enough
    const ForkedChildren::Key parents[] = {parent.key()};
    // ThreadSanitizer has a thread of its own in each process: its children are a look, too.
    const std::filesystem::directory_iterator threads("/proc/" +
                                                      std::to_string(parent.key().first) + "/task");
    const auto thread_count = static_cast<int>(std::distance(begin(threads), end(threads)));
    for (const bool at_all_threads : {false, true}) {
        ForkedChildren forked;
        int looks = 0;
        for (std::size_t before = 0; forked.count() < kChildren; before = forked.count()) {
            ASSERT_LE(++looks, kChildren + 1 + thread_count) << "each look does something";
            forked.look(parents, at_all_threads, 0);
            EXPECT_LE(forked.count(), before + 1);
        }
        EXPECT_GE(looks, kChildren);
    }
}

TEST(ForkedChildren, AreSeenByALookAtAllThreadsThatWasAskedForWhileOneWentOn) {
    const Parent parent(2);
    ForkedChildren forked;
    look_until(forked, parent, 2);
    const ForkedChildren::Key grandparents[] = {{getpid(), read_descent(getpid())->start_ticks}};
    ForkedChildren tree;
    tree.look(grandparents, false, 0);  // a round begins
    tree.look(grandparents, true, kAlways);
    tree.look(grandparents, true, kAlways);
    EXPECT_EQ(tree.count(), 3U) << "the parent, and its children";
}

}  // namespace
}  // namespace echion::cli
