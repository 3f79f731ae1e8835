#pragma once

// Real child processes whose main thread is borrowed, and what borrowing it takes: for the tests of
// inject/. A child tells by its exit status whether it noticed anything.

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/clock.h"
#include "fd_pairs.h"
#include "inject/arch.h"
#include "inject/prompt_tracer.h"
#include "inject/ptrace_session.h"
#include "inject/target_code.h"
#include "inject/target_memory.h"
#include "platform/process_info.h"
#include "platform/process_reader.h"

namespace echion::inject::test {

inline constexpr std::int64_t kPatienceNs = 20 * kNanosPerSecond;
inline constexpr int kGood = 17;  // exit status of a child to which nothing unexpected happened

using echion::test::Pipe;

inline std::int64_t soon() { return monotonic_ns() + kPatienceNs; }

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

    /// Returns once the child is blocked in a system call. Throws, which ends the test, when it has
    /// ended instead, or has not come there in time.
    void await_call(long number) const {
        const std::int64_t deadline_ns = soon();
        for (;;) {
            const auto call = read_blocked_call(pid_, pid_);
            if (call && call->number == number) {
                return;
            }
            const auto info = read_process_info(pid_);
            const bool has_ended = !info || info->state == 'Z' || info->state == 'X';
            if (has_ended || monotonic_ns() >= deadline_ns) {
                throw std::runtime_error(
                    "the child " + std::string(has_ended ? "has ended" : "has not come") +
                    " before it was blocked in system call " + std::to_string(number));
            }
            sched_yield();
        }
    }

  private:
    pid_t pid_ = -1;
};

/// What borrowing a child's main thread takes.
struct Hold {
    explicit Hold(pid_t pid_in) : pid(pid_in) {
        EXPECT_TRUE(reader.open(pid, Address()));
        auto read = TargetCode::read(reader, pid);
        EXPECT_TRUE(read);
        code = std::move(*read);
        auto opened = TargetMemory::open(pid);
        EXPECT_TRUE(opened);
        memory = std::move(*opened);
    }

    /// Stops the thread, has it make `calls` system calls, and puts it back.
    void borrow(int calls) {
        auto session = PtraceSession::seize(pid);
        ASSERT_TRUE(session);
        ASSERT_TRUE(session->interrupt(soon()));
        ASSERT_TRUE(session->keep_call_undisturbed());
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
        EXPECT_TRUE(memory.write(way.place, way.bytes));
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
    TargetMemory memory;
};

/// Arithmetic in all kinds of registers, whose result shows any that was changed.
__attribute__((noinline)) inline double compute(volatile const int& go_on) {
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

/// A child that is blocked in read() on the pipe, and good if it then gets an 'x'.
class ReadingChild {
  public:
    ReadingChild()
        : child_([this] {
              char byte = 0;
              return read(pipe_.reading.get(), &byte, 1) == 1 && byte == 'x' ? kGood : 1;
          }) {
        await_read();
    }
    [[nodiscard]] pid_t pid() const { return child_.pid(); }
    void await_read() const { child_.await_call(SYS_read); }
    /// Sends the 'x'; the child's exit status.
    int finish() {
        EXPECT_EQ(write(pipe_.writing.get(), "x", 1), 1);
        return child_.wait();
    }

  private:
    Pipe pipe_;
    Child child_;
};

/// A child that computes until it is told to stop, and is good if the result is right.
class ComputingChild {
  public:
    [[nodiscard]] pid_t pid() const { return child_.pid(); }
    /// Ends the computation; the child's exit status.
    int finish() {
        *go_on_.flag = 0;
        return child_.wait();
    }

  private:
    struct SharedFlag {
        SharedFlag() {
            void* shared =
                mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
            if (shared == MAP_FAILED) {
                abort();
            }
            flag = static_cast<volatile int*>(shared);
            *flag = 1;
        }
        ~SharedFlag() { munmap(const_cast<int*>(flag), 4096); }
        SharedFlag(const SharedFlag&) = delete;
        SharedFlag& operator=(const SharedFlag&) = delete;
        volatile int* flag;
    };
    SharedFlag go_on_;
    Child child_{[this] { return compute(*go_on_.flag) > 0 ? kGood : 1; }};
};

}  // namespace echion::inject::test
