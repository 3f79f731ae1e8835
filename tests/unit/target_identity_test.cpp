// A process that is another one by the time that it is written to.

#include "inject/target_identity.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "borrowed_child.h"
#include "inject/thread_descriptors.h"
#include "inject/tracer_thread.h"

namespace echion::inject {
namespace {

using namespace test;

/// Executes `sleep` when it is told to, and tells by the end of `about_to` that it has.
class ExecutingChild {
  public:
    ExecutingChild() { waits_.await_call(SYS_read); }
    [[nodiscard]] pid_t pid() const { return waits_.pid(); }

    void execute() {
        EXPECT_EQ(write(go_.writing.get(), "x", 1), 1);
        told_.writing.reset();
        char byte = 0;
        EXPECT_EQ(read(told_.reading.get(), &byte, 1), 0);  // closed by the exec
    }

  private:
    Pipe go_;
    Pipe told_;
    Child waits_{[this] {
        char byte = 0;
        if (read(go_.reading.get(), &byte, 1) == 1) {
            execl("/bin/sleep", "sleep", "1000", nullptr);
        }
        return 1;
    }};
};

TEST(TargetIdentity, ProcessThatGoesOnIsTheSame) {
    ReadingChild child;
    auto target = TargetIdentity::hold(child.pid());
    ASSERT_TRUE(target);
    EXPECT_TRUE(target->check());
    EXPECT_TRUE(target->check_thread(child.pid()));
    EXPECT_FALSE(target->check_thread(getpid())) << "a thread of another process";
    EXPECT_EQ(child.finish(), kGood);
    EXPECT_EQ(target->check().error().system_errno, ESRCH);
}

TEST(ThreadDescriptors, AreOnlyThoseOfTheTargetsThreads) {
    if (!ThreadDescriptors::are_supported()) {
        GTEST_SKIP() << "the kernel has no PIDFD_THREAD (before 6.9)";
    }
    ReadingChild child;
    ReadingChild other;
    auto target = TargetIdentity::hold(child.pid());
    ASSERT_TRUE(target);
    EXPECT_TRUE(ThreadDescriptors::open(*target, child.pid()));
    for (const pid_t another : {other.pid(), getpid(), pid_t{1}, pid_t{0}, pid_t{-1}}) {
        const auto opened = ThreadDescriptors::open(*target, another);
        ASSERT_FALSE(opened) << another;
        EXPECT_EQ(opened.error().system_errno, ESRCH);
    }
    EXPECT_EQ(child.finish(), kGood);
    EXPECT_FALSE(ThreadDescriptors::open(*target, child.pid()));
}

/// In the middle of an exec the kernel shows less of a process, and at its end as well: that is no
/// refusal.
TEST(TargetIdentity, ProcessThatExecutesWithoutPauseIsNotTakenForOneThatMayNotBeLookedAt) {
    Child child([] {
        execl("/bin/sh", "sh", "-c", "exec /bin/sh -c \"$0\" \"$0\"",
              "exec /bin/sh -c \"$0\" \"$0\"", nullptr);
        return 1;
    });
    for (int i = 0; i < 1000; ++i) {
        const auto target = TargetIdentity::hold(child.pid());
        ASSERT_TRUE(target || target.error().kind == ErrorKind::kRefused)
            << target.error().what << " " << target.error().system_errno;
    }
}

TEST(TargetIdentity, ProcessThatEndsIsNotTakenForOneThatMayNotBeLookedAt) {
    for (int i = 0; i < 300; ++i) {
        Pipe go;
        Child child([&] {
            char byte = 0;
            return read(go.reading.get(), &byte, 1) == 1 ? kGood : 1;
        });
        ASSERT_EQ(write(go.writing.get(), "x", 1), 1);
        while (true) {
            const auto target = TargetIdentity::hold(child.pid());
            if (!target) {
                ASSERT_EQ(target.error().system_errno, ESRCH) << target.error().what;
                break;
            }
        }
        EXPECT_EQ(child.wait(), kGood);
    }
}

TEST(TargetIdentity, ProcessThatEndsIsNotTakenForAnotherProgram) {
    // Memory that takes the kernel a while to take back: meanwhile the process has none, and lives.
    constexpr std::size_t kBytes = std::size_t{64} << 20;
    for (int i = 0; i < 20; ++i) {
        Pipe go;
        Pipe ready;
        Child child([&] {
            char byte = 0;
            std::vector<char> memory(kBytes, 'x');
            return write(ready.writing.get(), "r", 1) == 1 && read(go.reading.get(), &byte, 1) == 1
                       ? kGood
                       : 1;
        });
        char byte = 0;
        ASSERT_EQ(read(ready.reading.get(), &byte, 1), 1);
        auto target = TargetIdentity::hold(child.pid());
        ASSERT_TRUE(target);
        ASSERT_EQ(write(go.writing.get(), "x", 1), 1);
        for (Status status = target->check();; status = target->check()) {
            if (!status) {
                ASSERT_EQ(status.error().system_errno, ESRCH) << status.error().what;
                break;
            }
        }
        EXPECT_EQ(child.wait(), kGood);
    }
}

TEST(TargetIdentity, AnotherProgramIsNotTheSame) {
    ExecutingChild child;
    auto target = TargetIdentity::hold(child.pid());
    ASSERT_TRUE(target);
    child.execute();
    const Status status = target->check();
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, ErrorKind::kRefused);
}

TEST(TargetIdentity, MemoryIsThatOfTheProgramAtFirst) {
    ExecutingChild child;
    auto target = TargetIdentity::hold(child.pid());
    ASSERT_TRUE(target);
    // Mapped in both programs, at the same place if the kernel draws it so: never written to.
    const Address place = target->in_main_stack();
    std::uint64_t word = 0;
    ASSERT_TRUE(target->memory().read_bytes(place, &word, sizeof(word)));
    child.execute();
    EXPECT_FALSE(target->memory().read_bytes(place, &word, sizeof(word)));
    EXPECT_FALSE(target->memory().write_value(place, word));
}

TEST(TargetIdentity, GainedRightsAreSeen) {
    if (geteuid() != 0) {
        GTEST_SKIP() << "needs root, to give up all rights";
    }
    Pipe go;
    Child child([&] {
        if (setresuid(65534, 65534, 65534) != 0) {
            return 1;
        }
        char byte = 0;
        // In a user namespace of its own it has all capabilities.
        return read(go.reading.get(), &byte, 1) == 1 && unshare(CLONE_NEWUSER) == 0 &&
                       read(go.reading.get(), &byte, 1) == 1
                   ? kGood
                   : errno;
    });
    child.await_call(SYS_read);
    auto target = TargetIdentity::hold(child.pid());
    ASSERT_TRUE(target);
    EXPECT_TRUE(target->check());
    ASSERT_EQ(write(go.writing.get(), "x", 1), 1);
    while (true) {
        const auto now = read_process_info(child.pid());
        ASSERT_TRUE(now);
        if (now->state == 'Z') {
            GTEST_SKIP() << "this system allows no user namespaces: errno " << child.wait();
        }
        if (now->permitted_capabilities != 0) {
            break;
        }
        sched_yield();
    }
    const Status status = target->check();
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, ErrorKind::kRefused);
    ASSERT_EQ(write(go.writing.get(), "x", 1), 1);
    EXPECT_EQ(child.wait(), kGood);
}

TEST(TargetIdentity, MemoryOfAForkIsItsOwnAndOfAVforkItsParents) {
    Pipe go;
    ReadingChild forked;
    auto target = TargetIdentity::hold(forked.pid());
    ASSERT_TRUE(target);
    EXPECT_FALSE(target->shares_parents_memory());
    EXPECT_EQ(forked.finish(), kGood);

#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "ThreadSanitizer makes a fork of a vfork";
#endif
    Pipe number;
    Child parent([&] {
        const pid_t child = vfork();
        if (child == 0) {
            const pid_t own = getpid();
            char byte = 0;
            _exit(write(number.writing.get(), &own, sizeof(own)) == ssize_t{sizeof(own)} &&
                          read(go.reading.get(), &byte, 1) == 1
                      ? 0
                      : 1);
        }
        return child > 0 ? kGood : 1;
    });
    pid_t child = 0;
    ASSERT_EQ(read(number.reading.get(), &child, sizeof(child)), ssize_t{sizeof(child)});
    auto lent = TargetIdentity::hold(child);
    ASSERT_TRUE(lent);
    EXPECT_TRUE(lent->shares_parents_memory());
    ASSERT_EQ(write(go.writing.get(), "x", 1), 1);
    EXPECT_EQ(parent.wait(), kGood);
}

/// A child of two threads whose first one executes a program when told to, while the other one,
/// which is held, waits for ever.
TEST(HeldThread, ThatAnExecKillsIsReaped) {
    Pipe go;
    Pipe told;
    fcntl(told.writing.get(), F_SETFD, FD_CLOEXEC);
    Child child([&] {
        std::thread([] { pause(); }).detach();
        char byte = 0;
        if (read(go.reading.get(), &byte, 1) == 1) {
            execl("/bin/sleep", "sleep", "1000", nullptr);
        }
        return 1;
    });
    child.await_call(SYS_read);
    pid_t other = 0;
    while (other == 0) {
        (void)for_each_thread(child.pid(), [&](pid_t tid) {
            other = tid != child.pid() ? tid : other;
            return true;
        });
    }
    auto session = PtraceSession::seize(other);
    ASSERT_TRUE(session);
    ASSERT_TRUE(session->interrupt(soon()));
    ASSERT_EQ(write(go.writing.get(), "x", 1), 1);
    // It has been killed under our hands when it cannot be asked any more.
    while (session->read_registers()) {
        sched_yield();
    }
    session->detach();
    told.writing.reset();
    char byte = 0;
    EXPECT_EQ(read(told.reading.get(), &byte, 1), 0) << "the exec is over";
    EXPECT_EQ(session->state(), PtraceSession::State::kGone);
}

TEST(HeldThread, ThatExecutesAnotherProgramIsLetGo) {
    ExecutingChild child;
    auto session = PtraceSession::seize(child.pid());
    ASSERT_TRUE(session);
    ASSERT_TRUE(session->interrupt(soon()));
    ASSERT_TRUE(session->resume());
    std::thread executes([&] { child.execute(); });
    while (session->state() == PtraceSession::State::kRunning) {
        ASSERT_TRUE(session->poll_stop());
    }
    EXPECT_EQ(session->state(), PtraceSession::State::kExecuted);
    EXPECT_FALSE(session->interrupt(soon()));
    session->detach();
    executes.join();
}

// An uninterruptible sleep: the parent of a vfork(), until the child ends.
TEST(TracerThread, LetsGoOfThreadsThatDoNotStop) {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "ThreadSanitizer makes a fork of a vfork";
#endif
    Pipe go;
    Pipe after;
    Child parent([&] {
        if (vfork() == 0) {
            char byte = 0;
            _exit(read(go.reading.get(), &byte, 1) == 1 ? 0 : 1);
        }
        char byte = 0;
        return read(after.reading.get(), &byte, 1) == 1 ? kGood : 1;
    });
    while (true) {
        const auto info = read_process_info(parent.pid());
        if (info && info->state == 'D') {
            break;
        }
        sched_yield();
    }
    ASSERT_TRUE(run_as_tracer([&] {
        auto session = PtraceSession::seize(parent.pid());
        ASSERT_TRUE(session);
        EXPECT_FALSE(session->interrupt(monotonic_ns() + 1'000'000));
        session->abandon();
    }));
    EXPECT_EQ(read_process_info(parent.pid())->tracer_pid, 0);
    ASSERT_EQ(write(go.writing.get(), "x", 1), 1);
    parent.await_call(SYS_read);  // it has not stopped
    ASSERT_EQ(write(after.writing.get(), "x", 1), 1);
    EXPECT_EQ(parent.wait(), kGood);
}

}  // namespace
}  // namespace echion::inject
