#include "inject/ptrace_session.h"

#include <fcntl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <utility>

#include "base/clock.h"
#include "inject/prompt_tracer.h"

namespace echion::inject {
namespace {

using RequestKind = decltype(PTRACE_SEIZE);

// Linux 5.13; glibc's <sys/ptrace.h> has it since 2.35, under a name for its C enumeration.
constexpr int kGetRseqConfiguration = 0x420f;
// Linux 4.4; glibc has it since 2.35, likewise.
constexpr int kGetSeccompFilter = 0x420c;
struct RseqConfiguration {
    std::uint64_t area;
    std::uint32_t size_bytes;
    std::uint32_t signature;
    std::uint32_t flags;
    std::uint32_t padding;
};

// For the destructor: how long to try to put a thread back.
constexpr std::int64_t kLastPatienceNs = 2 * kNanosPerSecond;
// How long a thread that has been killed may take to be dead; the tracing thread's end reaps it
// too.
constexpr std::int64_t kDyingNs = kNanosPerSecond;

// Stops behind a system call are told from signals; so is an exec, which else would go unnoticed.
constexpr std::uintptr_t kOptions = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC;

constexpr std::uint64_t signal_bit(int number) { return std::uint64_t{1} << (number - 1); }

// A fault of our own code must not wait: the kernel kills a process that faults with the signal
// blocked, whatever its handlers. One of these signals that somebody has sent meanwhile is blocked
// all the same until the thread has been put back, or it would come again and again.
constexpr std::uint64_t kAllButFaults =
    ~(signal_bit(SIGSEGV) | signal_bit(SIGBUS) | signal_bit(SIGILL) | signal_bit(SIGFPE) |
      signal_bit(SIGTRAP) | signal_bit(SIGSYS));

}  // namespace

Result<PtraceSession> PtraceSession::seize(pid_t tid) {
    if (ptrace(PTRACE_SEIZE, tid, nullptr, reinterpret_cast<void*>(kOptions)) != 0) {
        return fail(ErrorKind::kSystem, "attach to a thread", errno);
    }
    return PtraceSession(tid);
}

PtraceSession::PtraceSession(PtraceSession&& other) noexcept
    : tid_(other.tid_),
      state_(std::exchange(other.state_, State::kDetached)),
      fault_signal_(other.fault_signal_),
      passed_signal_(other.passed_signal_),
      borrowed_(std::exchange(other.borrowed_, nullptr)),
      kept_signal_(other.kept_signal_),
      blocked_faults_(other.blocked_faults_),
      has_blocked_signals_(other.has_blocked_signals_),
      is_in_call_(other.is_in_call_) {}

PtraceSession::~PtraceSession() {
    const std::int64_t deadline_ns = monotonic_ns() + kLastPatienceNs;
    if (state_ == State::kDetached || state_ == State::kGone) {
        return;
    }
    if (borrowed_ != nullptr) {
        (void)put_back(deadline_ns);
    } else if (state_ == State::kRunning) {
        // Only a stopped thread can be detached from.
        if (interrupt(deadline_ns)) {
            (void)keep_call_undisturbed();
        }
    }
    detach();
}

Status PtraceSession::request(int operation, std::uintptr_t address, std::uintptr_t data,
                              const char* what) {
    if (ptrace(static_cast<RequestKind>(operation), tid_, reinterpret_cast<void*>(address),
               reinterpret_cast<void*>(data)) == -1) {
        const int cause = errno;
        // A stopped thread that cannot be found has been killed.
        if (cause == ESRCH && is_stopped()) {
            state_ = State::kDying;
        }
        return fail(ErrorKind::kSystem, what, cause);
    }
    return {};
}

Status PtraceSession::wait_for_stop(std::int64_t deadline_ns) {
    int status = 0;
    for (;;) {
        const pid_t got = waitpid(tid_, &status, __WALL | WNOHANG);
        if (got == tid_) {
            break;
        }
        if (got < 0 && errno != EINTR) {
            state_ = State::kGone;
            return fail(ErrorKind::kSystem, "wait for a thread to stop", ESRCH);
        }
        if (monotonic_ns() >= deadline_ns) {
            return fail(ErrorKind::kSystem, "a thread did not stop in time", ETIMEDOUT);
        }
        await_child_signal(deadline_ns);
    }
    return note_stop(status);
}

Status PtraceSession::poll_stop() {
    int status = 0;
    const pid_t got = waitpid(tid_, &status, __WALL | WNOHANG);
    if (got == 0 || (got < 0 && errno == EINTR)) {
        return {};
    }
    if (got < 0) {
        state_ = State::kGone;
        return fail(ErrorKind::kSystem, "the thread has ended", ESRCH);
    }
    return note_stop(status);
}

Status PtraceSession::note_stop(int status) {
    if (!WIFSTOPPED(status)) {
        state_ = State::kGone;
        return fail(ErrorKind::kSystem, "the thread has ended", ESRCH);
    }
    const int number = WSTOPSIG(status);
    const int event = status >> 16;
    if (event == PTRACE_EVENT_EXEC) {
        state_ = State::kExecuted;
        borrowed_ = nullptr;
    } else if (event == PTRACE_EVENT_STOP) {
        state_ = number == SIGTRAP ? State::kInterrupted : State::kGroupStop;
    } else if (number == (SIGTRAP | 0x80)) {
        // Entry and exit look alike; which of them it is follows from the order.
        is_in_call_ = !is_in_call_;
        state_ = is_in_call_ ? State::kCallEntry : State::kCallExit;
    } else if (borrowed_ != nullptr && number == passed_signal_) {
        state_ = State::kSignalDue;
    } else {
        state_ = State::kFault;
        fault_signal_ = number;
        if (borrowed_ == nullptr) {
            return {};
        }
        const auto sent = was_sent();
        if (!sent) {
            return tl::unexpected(sent.error());
        }
        if (*sent) {
            // Not an error of the borrowed code: for when the thread is itself again. SIGSTOP alone
            // cannot be blocked, and stops the process at once.
            state_ = State::kSignalKept;
            kept_signal_ = number;
            blocked_faults_ |= signal_bit(number);
            return block_signals();
        }
    }
    return {};
}

/// Whether the signal that it is stopped by is no error of its own: somebody's kill(2), or the
/// kernel's word of a page that has gone bad and that nobody has touched.
Result<bool> PtraceSession::was_sent() {
    siginfo_t info{};
    if (auto status =
            request(PTRACE_GETSIGINFO, 0, reinterpret_cast<std::uintptr_t>(&info), "read a signal");
        !status) {
        return tl::unexpected(status.error());
    }
    return info.si_code <= 0 || (info.si_signo == SIGBUS && info.si_code == BUS_MCEERR_AO);
}

Status PtraceSession::keep_call_undisturbed() {
    if (borrowed_ != nullptr) {
        return {};  // its registers are about to be restored
    }
    auto registers = read_registers();
    if (!registers) {
        return tl::unexpected(registers.error());
    }
    return arch::restart_instead_of_eintr(*registers) ? write_registers(*registers) : Status();
}

Status PtraceSession::interrupt(std::int64_t deadline_ns) {
    if (state_ == State::kInterrupted || state_ == State::kGroupStop) {
        return {};
    }
    for (;;) {
        if (state_ == State::kInterrupted || state_ == State::kGroupStop) {
            return {};
        }
        if (state_ == State::kExecuted) {
            return fail(ErrorKind::kSystem, "the thread runs another program", ESRCH);
        }
        if (monotonic_ns() >= deadline_ns) {
            return fail(ErrorKind::kSystem, "a thread is stopped by signals only", ETIMEDOUT);
        }
        // Again after every other stop: a stop of any kind uses the request up.
        if (auto status = request(PTRACE_INTERRUPT, 0, 0, "stop a thread"); !status) {
            return status;
        }
        if (is_stopped()) {
            // A signal of the program's own is delivered, and the thread stops behind that.
            if (auto status = request(PTRACE_CONT, 0, due_signal(), "resume a thread"); !status) {
                return status;
            }
        }
        state_ = State::kRunning;
        if (auto status = wait_for_stop(deadline_ns); !status) {
            return status;
        }
    }
}

Status PtraceSession::resume() {
    // Out of a group stop the thread is let go by detaching only, so that it stays stopped.
    if (auto status = request(PTRACE_CONT, 0, sent_signal(), "resume a thread"); !status) {
        return status;
    }
    state_ = State::kRunning;
    return {};
}

Result<arch::Registers> PtraceSession::read_registers() {
    arch::Registers registers{};
    iovec place{&registers, sizeof(registers)};
    if (auto status = request(PTRACE_GETREGSET, 1 /* NT_PRSTATUS */,
                              reinterpret_cast<std::uintptr_t>(&place), "read registers");
        !status) {
        return tl::unexpected(status.error());
    }
    return registers;
}

Status PtraceSession::write_registers(const arch::Registers& registers) {
    arch::Registers copy = registers;
    iovec place{&copy, sizeof(copy)};
    return request(PTRACE_SETREGSET, 1 /* NT_PRSTATUS */, reinterpret_cast<std::uintptr_t>(&place),
                   "write registers");
}

Result<arch::ThreadContext> PtraceSession::save_context() {
    arch::ThreadContext context;
    auto registers = read_registers();
    if (!registers) {
        return tl::unexpected(registers.error());
    }
    context.registers = *registers;
    context.vector_state.resize(arch::kMaxVectorStateBytes);
    iovec place{context.vector_state.data(), context.vector_state.size()};
    if (auto status = request(PTRACE_GETREGSET, arch::kVectorStateSet,
                              reinterpret_cast<std::uintptr_t>(&place), "read vector registers");
        !status) {
        return tl::unexpected(status.error());
    }
    context.vector_state.resize(place.iov_len);
    if (auto status =
            request(PTRACE_GETSIGMASK, sizeof(context.blocked_signals),
                    reinterpret_cast<std::uintptr_t>(&context.blocked_signals), "read signal mask");
        !status) {
        return tl::unexpected(status.error());
    }
    return context;
}

Result<Address> PtraceSession::read_rseq_area() {
    RseqConfiguration configuration{};
    if (auto status =
            request(kGetRseqConfiguration, sizeof(configuration),
                    reinterpret_cast<std::uintptr_t>(&configuration), "read the rseq area");
        !status) {
        if (status.error().system_errno == ESRCH) {
            return tl::unexpected(status.error());
        }
        return Address();
    }
    return Address(static_cast<std::uintptr_t>(configuration.area));
}

Result<SeccompFilter> PtraceSession::read_seccomp_filter(unsigned index) {
    const long count = ptrace(static_cast<RequestKind>(kGetSeccompFilter), tid_, index, nullptr);
    if (count < 0) {
        return fail(ErrorKind::kSystem, "read a seccomp filter", errno);
    }
    if (static_cast<std::size_t>(count) > kMaxFilterInstructions) {
        return fail(ErrorKind::kBoundExceeded, "a seccomp filter is too long");
    }
    SeccompFilter filter(static_cast<std::size_t>(count));
    // The kernel copies a filter as a whole: none can be exchanged for a longer one.
    if (ptrace(static_cast<RequestKind>(kGetSeccompFilter), tid_, index, filter.data()) != count) {
        return fail(ErrorKind::kSystem, "read a seccomp filter", errno);
    }
    return filter;
}

Status PtraceSession::avoid_restart_call() {
    auto registers = read_registers();
    if (!registers) {
        return tl::unexpected(registers.error());
    }
    return arch::eintr_instead_of_restart_call(*registers) ? write_registers(*registers) : Status();
}

Status PtraceSession::write_memory(TargetMemory& memory, Address to,
                                   std::span<const std::byte> bytes) {
    if (memory.write(to, bytes)) {
        return {};
    }
    // A kernel that lets nobody write to read-only memory through /proc still lets a tracer.
    for (std::size_t at = 0; at < bytes.size();) {
        const std::uintptr_t place = (to.value() + at) & ~(sizeof(long) - 1);
        const std::size_t offset = to.value() + at - place;
        const std::size_t part = std::min(sizeof(long) - offset, bytes.size() - at);
        errno = 0;
        long word = ptrace(PTRACE_PEEKDATA, tid_, reinterpret_cast<void*>(place), nullptr);
        if (errno != 0) {
            return fail(ErrorKind::kUnreadable, "write the target's memory", errno);
        }
        std::memcpy(reinterpret_cast<std::byte*>(&word) + offset, bytes.data() + at, part);
        if (auto status = request(PTRACE_POKEDATA, place, static_cast<std::uintptr_t>(word),
                                  "write the target's memory");
            !status) {
            return status;
        }
        at += part;
    }
    return {};
}

Status PtraceSession::borrow(const arch::ThreadContext& context) {
    if (state_ != State::kInterrupted) {
        return fail(ErrorKind::kInvalid, "the thread is not stopped where it can be borrowed");
    }
    borrowed_ = &context;
    return {};
}

Status PtraceSession::place_borrowed(const arch::Registers& registers) {
    // Registers first: should this process die in between, the thread has its way back already,
    // which restores the signal mask too. The reverse order could leave all signals blocked.
    if (auto status = write_registers(registers); !status) {
        return status;
    }
    return block_signals();
}

Status PtraceSession::block_signals() {
    // Each time: the stub changes the mask itself.
    std::uint64_t mask = kAllButFaults | blocked_faults_;
    if (auto status = request(PTRACE_SETSIGMASK, sizeof(mask),
                              reinterpret_cast<std::uintptr_t>(&mask), "block signals");
        !status) {
        return status;
    }
    has_blocked_signals_ = true;
    return {};
}

Status PtraceSession::run(const arch::Registers& registers, int passed_signal) {
    passed_signal_ = passed_signal;
    if (auto status = place_borrowed(registers); !status) {
        return status;
    }
    return resume();
}

Result<long> PtraceSession::run_system_call(const arch::Registers& registers,
                                            std::int64_t deadline_ns) {
    if (auto status = place_borrowed(registers); !status) {
        return tl::unexpected(status.error());
    }
    for (const State wanted : {State::kCallEntry, State::kCallExit}) {
        do {
            // A stop of the whole process may come between; it takes effect when we detach.
            if (monotonic_ns() >= deadline_ns) {
                return fail(ErrorKind::kSystem, "a system call takes too long", ETIMEDOUT);
            }
            // A signal that is due is blocked by now: the kernel queues it again (ptrace_signal()).
            if (auto status = request(PTRACE_SYSCALL, 0, sent_signal(), "run a system call");
                !status) {
                return tl::unexpected(status.error());
            }
            if (auto status = wait_for_stop(deadline_ns); !status) {
                return tl::unexpected(status.error());
            }
            if (state_ == State::kFault) {
                return fail(ErrorKind::kInvalid, "a fault in a borrowed thread");
            }
            if (state_ == State::kExecuted) {
                return fail(ErrorKind::kSystem, "the thread runs another program", ESRCH);
            }
        } while (state_ != wanted);
    }
    const auto after = read_registers();
    if (!after) {
        return tl::unexpected(after.error());
    }
    return arch::system_call_result(*after);
}

Status PtraceSession::write_context(const arch::ThreadContext& context) {
    // The general registers last, for the same reason as in run().
    if (has_blocked_signals_) {
        std::uint64_t mask = context.blocked_signals;
        if (auto status = request(PTRACE_SETSIGMASK, sizeof(mask),
                                  reinterpret_cast<std::uintptr_t>(&mask), "restore signal mask");
            !status) {
            return status;
        }
    }
    iovec place{const_cast<std::byte*>(context.vector_state.data()), context.vector_state.size()};
    if (auto status = request(PTRACE_SETREGSET, arch::kVectorStateSet,
                              reinterpret_cast<std::uintptr_t>(&place), "restore vector registers");
        !status) {
        return status;
    }
    return write_registers(context.registers);
}

Status PtraceSession::put_back(std::int64_t deadline_ns) {
    if (borrowed_ == nullptr) {
        return {};
    }
    const arch::ThreadContext& context = *borrowed_;
    // The kernel restarts an interrupted system call only for a thread that was stopped on its way
    // through signal handling. Any other stop is led there first, with the registers in place so
    // that nothing of ours runs on the way.
    if (is_stopped() && state_ != State::kInterrupted && state_ != State::kGroupStop) {
        arch::Registers registers = context.registers;
        if (state_ == State::kCallEntry) {
            // In front of a call, the registers choose it: the program's own must not run now.
            arch::leave_system_call(registers);
        }
        if (auto status = write_registers(registers); !status) {
            return status;
        }
        if (state_ == State::kFault) {
            fault_signal_ = 0;  // our fault, not the program's: it is not delivered
        }
        // One that is due must not begin its handler now, whose registers would be overwritten: it
        // is blocked, the kernel queues it again, and it is delivered to the thread as it was.
        if (state_ == State::kSignalDue) {
            if (auto status = block_signals(); !status) {
                return status;
            }
        }
    }
    if (auto status = interrupt(deadline_ns); !status) {
        return status;
    }
    if (auto status = write_context(context); !status) {
        return status;
    }
    borrowed_ = nullptr;
    has_blocked_signals_ = false;
    blocked_faults_ = 0;
    return {};
}

std::uintptr_t PtraceSession::due_signal() const {
    switch (state_) {
        case State::kFault:
            return static_cast<std::uintptr_t>(fault_signal_);
        case State::kSignalDue:
            return static_cast<std::uintptr_t>(passed_signal_);
        case State::kSignalKept:
            return static_cast<std::uintptr_t>(kept_signal_);
        default:
            return 0;
    }
}

std::uintptr_t PtraceSession::sent_signal() const {
    return state_ == State::kFault ? 0 : due_signal();
}

void PtraceSession::detach() {
    if (is_stopped()) {
        (void)request(PTRACE_DETACH, 0, due_signal(), "detach");
    }
    if (state_ == State::kDying) {
        reap();
    }
    if (state_ != State::kGone) {
        state_ = State::kDetached;
    }
}

void PtraceSession::abandon() {
    borrowed_ = nullptr;
    state_ = State::kDetached;
}

void PtraceSession::reap() {
    const std::int64_t deadline_ns = monotonic_ns() + kDyingNs;
    int status = 0;
    for (;;) {
        const pid_t got = waitpid(tid_, &status, __WALL | WNOHANG);
        const bool is_reaped = got == tid_ && !WIFSTOPPED(status);
        if (is_reaped || (got < 0 && errno != EINTR) || monotonic_ns() >= deadline_ns) {
            break;
        }
        await_child_signal(deadline_ns);
    }
    state_ = State::kGone;
}

}  // namespace echion::inject
