#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "inject/arch.h"
#include "inject/seccomp_filter.h"
#include "inject/target_memory.h"

namespace echion::inject {

/// Hold on one thread of another process by ptrace(2). No other thread is stopped, and the thread's
/// signals stay what they were: one that arrives while it is held is delivered when it goes on.
///
/// However a session ends, also by this process's death, the thread goes on where it was: the
/// destructor puts it back and detaches, and the kernel detaches for a dead tracer. A thread that
/// has been killed under the tracer's hands (by another one's exec, say) is reaped: the exec waits
/// for that. One that does not stop, in an uninterruptible sleep, can only be let go by the end of
/// the tracing thread: see run_as_tracer().
///
/// A held thread can leave its program only by an exec of its own, which the kernel tells before
/// the new program's first instruction (kExecuted), or by dying.
///
/// All calls from the thread that made the session. Blocking calls end at their deadline
/// (CLOCK_MONOTONIC, nanoseconds) with kSystem and ETIMEDOUT; ESRCH means that the thread is gone.
class PtraceSession {
  public:
    enum class State : std::uint8_t {
        kDetached,
        kRunning,      ///< Attached, not stopped by us.
        kInterrupted,  ///< Stopped by interrupt(), on its way back to user space.
        kGroupStop,    ///< Stopped with its whole process (SIGSTOP, job control).
        kCallEntry,    ///< Stopped in front of a system call that we let it make.
        kCallExit,     ///< Stopped behind it.
        kSignalKept,   ///< Stopped by a signal sent to it while borrowed; the kernel keeps it.
        kSignalDue,    ///< Stopped by the signal that it may get while borrowed; resume() delivers.
        kFault,        ///< Stopped by a signal for an error in the code that we made it run.
        kExecuted,     ///< Stopped in another program: nothing that was known of it is true.
        kDying,        ///< Killed while it was stopped; not reaped yet.
        kGone,
    };

    /// Attaches without stopping (PTRACE_SEIZE). kSystem with errno; EPERM also for a thread that
    /// is ending.
    static Result<PtraceSession> seize(pid_t tid);

    PtraceSession(PtraceSession&& other) noexcept;
    PtraceSession& operator=(PtraceSession&&) = delete;
    PtraceSession(const PtraceSession&) = delete;
    PtraceSession& operator=(const PtraceSession&) = delete;
    ~PtraceSession();

    [[nodiscard]] pid_t tid() const { return tid_; }
    [[nodiscard]] State state() const { return state_; }

    /// Stops the thread on its way to user space; signals that are due are delivered first. After
    /// it the state is kInterrupted or kGroupStop. Nothing is written to the thread.
    Status interrupt(std::int64_t deadline_ns);
    /// Makes a system call that would notice the stop not notice it, as far as that can be done
    /// (arch::restart_instead_of_eintr). To be called for every thread that was stopped by
    /// interrupt(), when it is known to be the right one.
    Status keep_call_undisturbed();
    /// Takes notice of a stop that has come about by itself, without waiting for one.
    Status poll_stop();
    /// Lets a stopped thread go on, still attached.
    Status resume();

    Result<arch::Registers> read_registers();
    [[nodiscard]] bool is_stopped() const {
        return state_ != State::kDetached && state_ != State::kRunning && state_ != State::kDying &&
               state_ != State::kGone;
    }
    /// Copies what put_back() restores. The thread is stopped by interrupt().
    Result<arch::ThreadContext> save_context();
    /// Address and length of the thread's rseq(2) area; null when it has none or the kernel does
    /// not tell.
    Result<Address> read_rseq_area();
    /// Copies one of the stopped thread's seccomp filters, counted from 0. kSystem with ENOENT:
    /// there is no such one; with EINVAL: there is none at all, or the kernel does not tell; with
    /// EACCES: this process may not ask (it needs CAP_SYS_ADMIN, and no filter of its own).
    Result<SeccompFilter> read_seccomp_filter(unsigned index);
    /// See arch::eintr_instead_of_restart_call(). The thread is stopped by interrupt().
    Status avoid_restart_call();

    /// Writes to the stopped thread's memory, also where the program itself may not; by `memory`,
    /// or where the kernel refuses that, word by word.
    Status write_memory(TargetMemory& memory, Address to, std::span<const std::byte> bytes);

    /// From here until put_back(), the session remembers that the thread is not itself.
    Status borrow(const arch::ThreadContext& context);
    /// Starts the borrowed thread with other registers; signals other than those of its own faults
    /// stay pending, and `passed_signal`, if its code unblocks that.
    Status run(const arch::Registers& registers, int passed_signal = 0);
    /// Lets the borrowed thread make one system call, and stops it behind the call: its result.
    Result<long> run_system_call(const arch::Registers& registers, std::int64_t deadline_ns);
    /// Restores the thread exactly, including the system call it was in: the kernel restarts it as
    /// if it had only been stopped. Interrupts it first where it runs.
    Status put_back(std::int64_t deadline_ns);
    /// The borrowed thread puts itself back; nothing is left to restore.
    void forget_context() { borrowed_ = nullptr; }
    /// Ends the session with the thread going on, if it lives. It has been put back.
    void detach();

    /// Forgets a thread that does not stop: the kernel detaches when the tracing thread ends.
    void abandon();

    /// Number of the signal of a kFault.
    [[nodiscard]] int fault_signal() const { return fault_signal_; }

  private:
    explicit PtraceSession(pid_t tid) : tid_(tid), state_(State::kRunning) {}
    Status wait_for_stop(std::int64_t deadline_ns);
    Status request(int operation, std::uintptr_t address, std::uintptr_t data, const char* what);
    Status write_registers(const arch::Registers& registers);
    Status block_signals();
    Status place_borrowed(const arch::Registers& registers);
    Status write_context(const arch::ThreadContext& context);
    Status note_stop(int status);
    Result<bool> was_sent();
    [[nodiscard]] std::uintptr_t due_signal() const;
    [[nodiscard]] std::uintptr_t sent_signal() const;  // the same, without faults
    void reap();

    pid_t tid_ = 0;
    State state_ = State::kDetached;
    int fault_signal_ = 0;
    int passed_signal_ = 0;
    /// The context of a borrowed thread, to be restored on whatever way the session ends.
    const arch::ThreadContext* borrowed_ = nullptr;
    /// Of a kSignalKept. When the thread goes on, it is given the signal, which is blocked by then:
    /// the kernel queues it again, with all that it says of its sender (kernel/signal.c,
    /// ptrace_signal()).
    int kept_signal_ = 0;
    std::uint64_t blocked_faults_ = 0;  // bit n-1: signal n, one of faults, that has been kept
    bool has_blocked_signals_ = false;
    bool is_in_call_ = false;  // between the two stops of a system call
};

}  // namespace echion::inject
