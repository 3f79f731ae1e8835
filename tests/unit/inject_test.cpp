// Borrowing threads of real child processes: what they were doing has to come out as if nothing
// had happened.

#include <errno.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "borrowed_child.h"

namespace echion::inject {
namespace {

using namespace test;

TEST(Borrow, BlockedReadGoesOn) {
    ReadingChild child;
    Hold hold(child.pid());
    for (int i = 0; i < 20; ++i) {
        hold.borrow(i % 3);
    }
    EXPECT_EQ(child.finish(), kGood);
}

TEST(Borrow, RelativeSleepKeepsItsEnd) {
    Child child([] {
        const std::int64_t begin_ns = monotonic_ns();
        const timespec pause = make_timespec(400'000'000);
        timespec left{};
        const int result = nanosleep(&pause, &left);
        const std::int64_t slept_ns = monotonic_ns() - begin_ns;
        return result == 0 && slept_ns >= 400'000'000 ? kGood : errno;
    });
    child.await_call(SYS_clock_nanosleep);
    Hold hold(child.pid());
    for (int i = 0; i < 20; ++i) {
        hold.borrow(2);
    }
    EXPECT_EQ(child.wait(), kGood);
}

TEST(Borrow, PollKeepsItsEnd) {
    Pipe pipe;
    Child child([&] {
        pollfd entry{pipe.reading.get(), POLLIN, 0};
        const std::int64_t begin_ns = monotonic_ns();
        const int result = poll(&entry, 1, 400);
        return result == 0 && monotonic_ns() - begin_ns >= 399'000'000 ? kGood : 1;
    });
    child.await_call(SYS_poll);
    Hold hold(child.pid());
    for (int i = 0; i < 20; ++i) {
        hold.borrow(1);
    }
    EXPECT_EQ(child.wait(), kGood);
}

TEST(Borrow, EndlessEpollWaitDoesNotFail) {
    Pipe pipe;
    Child child([&] {
        const int poller = epoll_create1(0);
        epoll_event event{};
        event.events = EPOLLIN;
        epoll_ctl(poller, EPOLL_CTL_ADD, pipe.reading.get(), &event);
        return epoll_wait(poller, &event, 1, -1) == 1 ? kGood : errno;
    });
    child.await_call(SYS_epoll_wait);
    Hold hold(child.pid());
    for (int i = 0; i < 20; ++i) {
        hold.borrow(i % 2);
    }
    ASSERT_EQ(write(pipe.writing.get(), "x", 1), 1);
    EXPECT_EQ(child.wait(), kGood);
}

TEST(Borrow, SignalInTheMeantimeIsDeliveredAfterwards) {
    Pipe pipe;
    Child child([&] {
        struct sigaction action {};
        action.sa_handler = [](int) {};
        sigaction(SIGUSR1, &action, nullptr);
        char byte = 0;
        return read(pipe.reading.get(), &byte, 1) == -1 && errno == EINTR ? kGood : 1;
    });
    child.await_call(SYS_read);
    Hold hold(child.pid());
    auto session = PtraceSession::seize(child.pid());
    ASSERT_TRUE(session);
    ASSERT_TRUE(session->interrupt(soon()));
    const auto context = session->save_context();
    ASSERT_TRUE(context);
    const arch::WayBack way = hold.place_way_back(*context);
    ASSERT_TRUE(session->borrow(*context));
    ASSERT_EQ(kill(child.pid(), SIGUSR1), 0);
    EXPECT_TRUE(session->run_system_call(hold.make_call(*context, way, SYS_getpid), soon()));
    ASSERT_EQ(kill(child.pid(), SIGUSR1), 0);
    EXPECT_TRUE(session->put_back(soon()));
    session->detach();
    EXPECT_EQ(child.wait(), kGood);
}

// The stub unblocks a signal while it is in the C library: one that comes then, and has not been
// delivered when the thread is led on to another call, must not be lost.
TEST(Borrow, SignalThatItMayGetIsNotLost) {
    Pipe pipe;
    Child child([&] {
        static volatile int count = 0;
        struct sigaction action {};
        action.sa_handler = [](int) { count = count + 1; };
        action.sa_flags = SA_RESTART;
        sigaction(SIGUSR1, &action, nullptr);
        char byte = 0;
        return read(pipe.reading.get(), &byte, 1) == 1 && count == 1 ? kGood : 1;
    });
    child.await_call(SYS_read);
    Hold hold(child.pid());
    auto session = PtraceSession::seize(child.pid());
    ASSERT_TRUE(session);
    ASSERT_TRUE(session->interrupt(soon()));
    const auto context = session->save_context();
    ASSERT_TRUE(context);
    const arch::WayBack way = hold.place_way_back(*context);
    const Address mask = way.place - 64;
    ASSERT_TRUE(hold.memory.write_value(mask, std::uint64_t{1} << (SIGUSR1 - 1)));
    ASSERT_TRUE(session->borrow(*context));
    const std::uintptr_t unblock[] = {SIG_UNBLOCK, mask.value(), 0, 8};
    ASSERT_TRUE(session->run_system_call(
        arch::make_system_call(context->registers, hold.code.system_call_and_return(), way.entry,
                               SYS_rt_sigprocmask, unblock),
        soon()));
    // Two more calls: one that waits, with the signal let through, and one behind it.
    const auto wait = hold.make_call(*context, way, SYS_pause);
    ASSERT_TRUE(session->run(wait, SIGUSR1));
    child.await_call(SYS_pause);
    ASSERT_TRUE(session->interrupt(soon()));
    ASSERT_TRUE(session->run_system_call(
        arch::make_system_call(context->registers, hold.code.system_call_and_return(), way.entry,
                               SYS_rt_sigprocmask, unblock),
        soon()));
    ASSERT_EQ(kill(child.pid(), SIGUSR1), 0);
    EXPECT_TRUE(session->run_system_call(hold.make_call(*context, way, SYS_getpid), soon()));
    EXPECT_TRUE(session->put_back(soon()));
    session->detach();
    child.await_call(SYS_read);
    ASSERT_EQ(write(pipe.writing.get(), "x", 1), 1);
    EXPECT_EQ(child.wait(), kGood);
}

TEST(Borrow, SignalMaskOfThePpollComesBack) {
    Pipe pipe;
    Child child([&] {
        struct sigaction action {};
        action.sa_handler = [](int) {};
        sigaction(SIGUSR1, &action, nullptr);
        sigset_t blocked;
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGUSR1);
        sigprocmask(SIG_SETMASK, &blocked, nullptr);
        sigset_t none;
        sigemptyset(&none);
        // The handler can run only within ppoll(), whose mask lets it.
        return ppoll(nullptr, 0, nullptr, &none) == -1 && errno == EINTR &&
                       sigprocmask(SIG_SETMASK, nullptr, &none) == 0 &&
                       sigismember(&none, SIGUSR1) == 1
                   ? kGood
                   : 1;
    });
    child.await_call(SYS_ppoll);
    Hold hold(child.pid());
    hold.borrow(2);
    child.await_call(SYS_ppoll);
    ASSERT_EQ(kill(child.pid(), SIGUSR1), 0);
    EXPECT_EQ(child.wait(), kGood);
}

TEST(Borrow, RegistersOfABusyThreadAreUnchanged) {
    ComputingChild child;
    Hold hold(child.pid());
    for (int i = 0; i < 200; ++i) {
        hold.borrow(1);
    }
    EXPECT_EQ(child.finish(), kGood);
}

TEST(FindInstructions, AreFoundInThisLibcOnly) {
    const std::byte nothing[64] = {};
    EXPECT_FALSE(arch::find_system_call_and_return(nothing));
    EXPECT_FALSE(arch::find_sigreturn(nothing));
    EXPECT_FALSE(arch::find_system_call_and_return({}));
    EXPECT_FALSE(arch::find_sigreturn({}));
}

}  // namespace
}  // namespace echion::inject
