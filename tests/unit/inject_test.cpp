// Borrowing threads of real child processes: what they were doing has to come out as if nothing
// had happened, also when the tracer dies in the middle.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>

#include "base/clock.h"
#include "base/unique_fd.h"
#include "inject/arch.h"
#include "inject/prompt_tracer.h"
#include "inject/ptrace_session.h"
#include "inject/stub.h"
#include "inject/target_code.h"
#include "inject/target_memory.h"
#include "platform/process_info.h"
#include "platform/process_modules.h"
#include "platform/process_reader.h"

namespace echion::inject {
namespace {

constexpr std::int64_t kPatienceNs = 20 * kNanosPerSecond;
constexpr int kGood = 17;  // exit status of a child to which nothing unexpected happened

std::int64_t soon() { return monotonic_ns() + kPatienceNs; }

/// A child process that runs `body` and exits with what it returns.
class Child {
  public:
    explicit Child(const std::function<int()>& body) {
        pid_ = fork();
        if (pid_ == 0) {
            _exit(body());
        }
    }
    ~Child() {
        if (pid_ > 0) {
            kill(pid_, SIGKILL);
            waitpid(pid_, nullptr, 0);
        }
    }
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    [[nodiscard]] pid_t pid() const { return pid_; }

    /// Its exit status, or minus the number of the signal that killed it.
    int wait() {
        int status = 0;
        waitpid(std::exchange(pid_, -1), &status, 0);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    }

    /// Returns once the child is blocked in a system call.
    void await_call(long number) const {
        for (;;) {
            const auto call = read_blocked_call(pid_, pid_);
            if (call && call->number == number) {
                return;
            }
            sched_yield();
        }
    }

  private:
    pid_t pid_ = -1;
};

/// A pipe whose ends the test and its child share.
struct Pipe {
    Pipe() {
        int ends[2];
        EXPECT_EQ(pipe(ends), 0);
        reading.reset(ends[0]);
        writing.reset(ends[1]);
    }
    UniqueFd reading;
    UniqueFd writing;
};

/// What borrowing a child's main thread takes.
struct Hold {
    explicit Hold(pid_t pid_in) : pid(pid_in) {
        EXPECT_TRUE(reader.open(pid, Address()));
        auto read = TargetCode::read(reader, pid);
        EXPECT_TRUE(read);
        code = std::move(*read);
    }

    /// Stops the thread, has it make `calls` system calls, and puts it back.
    void borrow(int calls) {
        auto session = PtraceSession::seize(pid);
        ASSERT_TRUE(session);
        ASSERT_TRUE(session->interrupt(soon()));
        auto context = session->save_context();
        ASSERT_TRUE(context);
        const arch::WayBack way = place_way_back(*context);
        ASSERT_TRUE(session->borrow(*context));
        for (int i = 0; i < calls; ++i) {
            const auto result =
                session->run_system_call(make_call(*context, way, SYS_getpid), soon());
            ASSERT_TRUE(result);
            EXPECT_EQ(*result, pid);
        }
        EXPECT_TRUE(session->put_back(soon()));
        session->detach();
    }

    arch::WayBack place_way_back(const arch::ThreadContext& context) {
        arch::WayBack way = arch::make_way_back(context, code.sigreturn());
        EXPECT_TRUE(write_target(pid, way.place, way.bytes));
        return way;
    }
    arch::Registers make_call(const arch::ThreadContext& context, const arch::WayBack& way,
                              long number) {
        return arch::make_system_call(context.registers, code.system_call_and_return(), way.entry,
                                      number, {});
    }

    pid_t pid;
    PromptTracer prompt;
    ProcessReader reader;
    TargetCode code;
};

TEST(Borrow, BlockedReadGoesOn) {
    Pipe pipe;
    Child child([&] {
        char byte = 0;
        return read(pipe.reading.get(), &byte, 1) == 1 && byte == 'x' ? kGood : 1;
    });
    child.await_call(SYS_read);
    Hold hold(child.pid());
    for (int i = 0; i < 20; ++i) {
        hold.borrow(i % 3);
    }
    ASSERT_EQ(write(pipe.writing.get(), "x", 1), 1);
    EXPECT_EQ(child.wait(), kGood);
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

/// Arithmetic in all kinds of registers, whose result shows any that was changed.
__attribute__((noinline)) double compute(volatile const int& go_on) {
    double sum = 0;
    float product = 1;
    long count = 0;
    __int128 wide = 1;
    while (go_on != 0 || count < 1000) {
        sum += static_cast<double>(count % 7) * 0.5;
        product *= count % 2 == 0 ? 2.0F : 0.5F;
        wide = wide * 3 + 1;
        wide = (wide - 1) / 3;
        if (wide != 1 || (count % 2 == 1 && product != 1.0F)) {
            return -1;
        }
        if (++count % 7 == 0 && sum != static_cast<double>(count / 7) * 10.5) {
            return -1;
        }
    }
    return sum;
}

TEST(Borrow, RegistersOfABusyThreadAreUnchanged) {
    void* shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(shared, MAP_FAILED);
    auto* go_on = static_cast<volatile int*>(shared);
    *go_on = 1;
    Child child([&] { return compute(*go_on) > 0 ? kGood : 1; });
    Hold hold(child.pid());
    for (int i = 0; i < 200; ++i) {
        hold.borrow(1);
    }
    *go_on = 0;
    EXPECT_EQ(child.wait(), kGood);
    munmap(shared, 4096);
}

/// Whether a process has the stub's code in its memory.
bool has_stub(pid_t pid) {
    ProcessReader reader;
    EXPECT_TRUE(reader.open(pid, Address()));
    const StubCode code = stub_code();
    bool found = false;
    EXPECT_TRUE(for_each_mapped_range(pid, [&](const MappedRange& range) {
        std::byte head[64];
        found = found || (range.inode == 0 && range.executable &&
                          reader.read_bytes(range.start, head, sizeof(head)) &&
                          std::memcmp(head, code.start, sizeof(head)) == 0);
        return !found;
    }));
    return found;
}

/// Stages at which a tracer may die.
enum class Death { kStopped, kPlaced, kInFrontOfCall, kBehindCall };

class TracerDies : public testing::TestWithParam<Death> {
  protected:
    /// Runs a tracer process that borrows the child's thread and ends at the stage.
    static void trace_and_die(Hold& hold, Death death) {
        Child tracer([&] {
            auto session = PtraceSession::seize(hold.pid);
            if (!session || !session->interrupt(soon())) {
                return 1;
            }
            const auto context = session->save_context();
            if (!context) {
                return 1;
            }
            const arch::WayBack way = hold.place_way_back(*context);
            if (death == Death::kStopped || !session->borrow(*context)) {
                _exit(kGood);
            }
            const arch::Registers call = hold.make_call(*context, way, SYS_getpid);
            if (death == Death::kBehindCall) {
                _exit(session->run_system_call(call, soon()) ? kGood : 1);
            }
            // run() without its last step, or with one step into the call.
            auto registers = call;
            ptrace(PTRACE_SETREGS, hold.pid, nullptr, &registers);
            if (death == Death::kInFrontOfCall) {
                ptrace(PTRACE_SYSCALL, hold.pid, nullptr, nullptr);
                int status = 0;
                waitpid(hold.pid, &status, __WALL);
            }
            _exit(kGood);
        });
        EXPECT_EQ(tracer.wait(), kGood);
    }
};

TEST_P(TracerDies, BlockedReadGoesOn) {
    Pipe pipe;
    Child child([&] {
        char byte = 0;
        return read(pipe.reading.get(), &byte, 1) == 1 && byte == 'x' ? kGood : 1;
    });
    child.await_call(SYS_read);
    Hold hold(child.pid());
    trace_and_die(hold, GetParam());
    child.await_call(SYS_read);
    ASSERT_EQ(write(pipe.writing.get(), "x", 1), 1);
    EXPECT_EQ(child.wait(), kGood);
}

TEST_P(TracerDies, BusyThreadGoesOn) {
    void* shared = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(shared, MAP_FAILED);
    auto* go_on = static_cast<volatile int*>(shared);
    *go_on = 1;
    Child child([&] { return compute(*go_on) > 0 ? kGood : 1; });
    Hold hold(child.pid());
    for (int i = 0; i < 20; ++i) {
        trace_and_die(hold, GetParam());
    }
    *go_on = 0;
    EXPECT_EQ(child.wait(), kGood);
    munmap(shared, 4096);
}

INSTANTIATE_TEST_SUITE_P(AtEachStage, TracerDies,
                         testing::Values(Death::kStopped, Death::kPlaced, Death::kInFrontOfCall,
                                         Death::kBehindCall));

// The tracer dies when the stub has begun: the thread makes the helper, finds nobody who puts it
// back, and does that itself; the helper finds nobody who fetches the channel, and ends.
TEST(TracerDiesDuringTheStub, TheThreadPutsItselfBack) {
    Pipe pipe;
    Child child([&] {
        char byte = 0;
        return read(pipe.reading.get(), &byte, 1) == 1 && byte == 'x' ? kGood : 1;
    });
    child.await_call(SYS_read);
    const auto count_threads = [&] {
        const auto info = read_process_info(child.pid());
        return info ? info->threads : 0U;
    };
    // ThreadSanitizer has a thread of its own in every process.
    const auto usual_threads = count_threads();
    Hold hold(child.pid());
    StubParameters parameters{};
    const auto place = [&](std::uintptr_t StubParameters::*member, const char* name) {
        const auto function = hold.code.find_libc_function(hold.reader, name);
        ASSERT_TRUE(function) << name;
        parameters.*member = function->value();
    };
    place(&StubParameters::attributes_init, "pthread_attr_init");
    place(&StubParameters::attributes_stack, "pthread_attr_setstacksize");
    place(&StubParameters::attributes_detached, "pthread_attr_setdetachstate");
    place(&StubParameters::create_thread, "pthread_create");
    place(&StubParameters::errno_location, "__errno_location");
    place(&StubParameters::unmap, "munmap");
    parameters.helper_stack_bytes = 1U << 18;

    Address region;
    Child tracer([&] {
        auto session = PtraceSession::seize(hold.pid);
        if (!session || !session->interrupt(soon())) {
            return 1;
        }
        const auto context = session->save_context();
        if (!context || !session->borrow(*context)) {
            return 1;
        }
        const arch::WayBack way = hold.place_way_back(*context);
        const std::uintptr_t arguments[] = {
            0, kRegionBytes, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, ~0UL, 0};
        const auto mapped = session->run_system_call(
            arch::make_system_call(context->registers, hold.code.system_call_and_return(),
                                   way.entry, SYS_mmap, arguments),
            soon());
        if (!mapped || *mapped < 0) {
            return 1;
        }
        region = Address(static_cast<std::uintptr_t>(*mapped));
        const StubCode code = stub_code();
        const Address data = region + kStubCodeBytes;
        parameters.region = region.value();
        parameters.helper = region.value() + code.helper_offset;
        parameters.way_back = way.entry.value();
        parameters.system_call_and_return = hold.code.system_call_and_return().value();
        const bool is_placed =
            session->write_memory(region, {code.start, code.size_bytes}) &&
            session->write_memory(data, std::as_bytes(std::span(&parameters, 1))) &&
            session->run(arch::make_stub_call(context->registers, region + code.start_offset,
                                              region + kRegionBytes, data,
                                              kRegionBytes - kStubCodeBytes, way.entry));
        _exit(is_placed ? kGood : 1);
    });
    ASSERT_EQ(tracer.wait(), kGood);
    const std::int64_t patience_ns = monotonic_ns() + 60 * kNanosPerSecond;
    while (count_threads() <= usual_threads) {
        ASSERT_LT(monotonic_ns(), patience_ns) << "the helper does not begin";
        sched_yield();
    }
    child.await_call(SYS_read);  // it is back where it was
    const auto info = read_process_info(child.pid());
    ASSERT_TRUE(info);
    EXPECT_EQ(info->blocked_signals, 0U);
    while (count_threads() > usual_threads) {  // the helper's patience: 5 s
        ASSERT_LT(monotonic_ns(), patience_ns) << "the helper does not end";
        sched_yield();
    }
    EXPECT_FALSE(has_stub(child.pid())) << "the region is still mapped";
    ASSERT_EQ(write(pipe.writing.get(), "x", 1), 1);
    EXPECT_EQ(child.wait(), kGood);
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
