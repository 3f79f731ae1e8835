// Borrowing threads of real child processes: what they were doing has to come out as if nothing
// had happened.

#include <errno.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <stdexcept>

#include "borrowed_child.h"
#include "inject/tracer_thread.h"

namespace echion::inject {
namespace {

using namespace test;

TEST(Child, ThatHasEndedIsNotWaitedFor) {
    Child child([] { return kGood; });
    EXPECT_THROW(child.await_call(SYS_read), std::runtime_error);
    EXPECT_EQ(child.wait(), kGood);
}

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

/// Borrows the child's thread for two calls, and calls `meanwhile` before each and behind them.
template <typename Function>
void borrow_beside(Hold& hold, const Function& meanwhile) {
    auto session = PtraceSession::seize(hold.pid);
    ASSERT_TRUE(session);
    ASSERT_TRUE(session->interrupt(soon()));
    ASSERT_TRUE(session->keep_call_undisturbed());
    const auto context = session->save_context();
    ASSERT_TRUE(context);
    const arch::WayBack way = hold.place_way_back(*context);
    ASSERT_TRUE(session->borrow(*context));
    for (int call = 0; call < 2; ++call) {
        meanwhile(call);
        EXPECT_TRUE(session->run_system_call(hold.make_call(*context, way, SYS_getpid), soon()));
    }
    meanwhile(2);
    EXPECT_TRUE(session->put_back(soon()));
    session->detach();
}

void send_with_value(pid_t pid, int signal, int value) {
    sigval content{};
    content.sival_int = value;
    ASSERT_EQ(sigqueue(pid, signal, content), 0);
}

bool is_from(const siginfo_t& info, pid_t sender, int value) {
    return info.si_code == SI_QUEUE && info.si_pid == sender && info.si_value.sival_int == value;
}

// Signals of faults cannot be blocked while the thread is borrowed: what somebody has sent comes
// later, with its sender and its value.
TEST(Borrow, SentFaultKeepsWhatItSaysOfItsSender) {
    static const pid_t parent = getpid();
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) {
        Pipe pipe;
        Child child([&] {
            static volatile int good = 0;
            struct sigaction action {};
            action.sa_sigaction = [](int, siginfo_t* info, void*) {
                good = good + (is_from(*info, parent, 4711) ? 1 : 100);
            };
            action.sa_flags = SA_SIGINFO | SA_RESTART;
            sigaction(signal, &action, nullptr);
            char byte = 0;
            return read(pipe.reading.get(), &byte, 1) == 1 && good == 1 ? kGood : 1;
        });
        child.await_call(SYS_read);
        Hold hold(child.pid());
        borrow_beside(hold, [&](int call) {
            if (call == 0) {
                send_with_value(child.pid(), signal, 4711);
            }
        });
        ASSERT_EQ(write(pipe.writing.get(), "x", 1), 1);
        EXPECT_EQ(child.wait(), kGood) << strsignal(signal);
    }
}

TEST(Borrow, SentFaultThatTheProgramBlocksStaysPending) {
    static const pid_t parent = getpid();
    Pipe pipe;
    Child child([&] {
        sigset_t blocked;
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGSEGV);
        sigprocmask(SIG_SETMASK, &blocked, nullptr);
        char byte = 0;
        siginfo_t info{};
        const timespec now{};
        return read(pipe.reading.get(), &byte, 1) == 1 &&
                       sigtimedwait(&blocked, &info, &now) == SIGSEGV && is_from(info, parent, 42)
                   ? kGood
                   : 1;
    });
    child.await_call(SYS_read);
    Hold hold(child.pid());
    borrow_beside(hold, [&](int call) {
        if (call == 1) {
            send_with_value(child.pid(), SIGSEGV, 42);
        }
    });
    ASSERT_EQ(write(pipe.writing.get(), "x", 1), 1);
    EXPECT_EQ(child.wait(), kGood);
}

TEST(Borrow, SentFaultSurvivesTheEndOfTheTracer) {
    static const pid_t parent = getpid();
    Pipe pipe;
    Child child([&] {
        static volatile int good = 0;
        struct sigaction action {};
        action.sa_sigaction = [](int, siginfo_t* info, void*) {
            good = good + (is_from(*info, parent, 7) ? 1 : 100);
        };
        action.sa_flags = SA_SIGINFO | SA_RESTART;
        sigaction(SIGSEGV, &action, nullptr);
        char byte = 0;
        return read(pipe.reading.get(), &byte, 1) == 1 && good == 1 ? kGood : 1;
    });
    child.await_call(SYS_read);
    ASSERT_TRUE(run_as_tracer([&] {
        Hold hold(child.pid());
        auto session = PtraceSession::seize(child.pid());
        ASSERT_TRUE(session);
        ASSERT_TRUE(session->interrupt(soon()));
        const auto context = session->save_context();
        ASSERT_TRUE(context);
        const arch::WayBack way = hold.place_way_back(*context);
        ASSERT_TRUE(session->borrow(*context));
        send_with_value(child.pid(), SIGSEGV, 7);
        EXPECT_TRUE(session->run_system_call(hold.make_call(*context, way, SYS_getpid), soon()));
        session->abandon();  // this thread's end lets go of it behind its call, on its way back
    }));
    child.await_call(SYS_read);
    ASSERT_EQ(write(pipe.writing.get(), "x", 1), 1);
    EXPECT_EQ(child.wait(), kGood);
}

TEST(Borrow, ProcessThatIsStoppedAndContinuedMeanwhileGoesOn) {
    ReadingChild child;
    Hold hold(child.pid());
    borrow_beside(
        hold, [&](int call) { ASSERT_EQ(kill(child.pid(), call == 0 ? SIGSTOP : SIGCONT), 0); });
    const std::int64_t deadline_ns = soon();
    char state = '?';
    while ((state = read_process_info(child.pid())->state) != 'S' && monotonic_ns() < deadline_ns) {
        ASSERT_NE(state, 'T') << "left stopped";
        sched_yield();
    }
    EXPECT_EQ(child.finish(), kGood);
}

TEST(Borrow, ProcessThatIsStoppedMeanwhileStaysStopped) {
    ReadingChild child;
    Hold hold(child.pid());
    borrow_beside(hold, [&](int call) {
        if (call == 1) {
            ASSERT_EQ(kill(child.pid(), SIGSTOP), 0);
        }
    });
    siginfo_t info{};
    ASSERT_EQ(waitid(P_PID, static_cast<id_t>(child.pid()), &info, WSTOPPED | WNOWAIT), 0);
    EXPECT_EQ(info.si_code, CLD_STOPPED);
    ASSERT_EQ(kill(child.pid(), SIGCONT), 0);
    EXPECT_EQ(child.finish(), kGood);
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
