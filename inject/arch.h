#pragma once

#include <sys/user.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "memory/address.h"

/// All that attaching has to know of the machine: registers, system calls, the signal frame from
/// which sigreturn restores a thread, and the instruction sequences to look for in the C library.
/// One source file for each architecture (arch_x86_64.cpp); nothing else depends on it.
namespace echion::inject::arch {

using Registers = user_regs_struct;

/// Everything of a thread that a borrowed call could change.
struct ThreadContext {
    Registers registers{};
    std::vector<std::byte> vector_state;  ///< NT_X86_XSTATE, as the kernel gave it
    std::uint64_t blocked_signals = 0;
};

[[nodiscard]] Address instruction_pointer(const Registers& registers);
[[nodiscard]] Address stack_pointer(const Registers& registers);
/// Where the C library keeps the thread's own data; both known ones place it at the upper end of
/// the stack that they make for a thread. Null before the thread has any.
[[nodiscard]] Address thread_pointer(const Registers& registers);

/// Registers of which only the two that name a place in the code are known.
[[nodiscard]] Registers make_place(Address instruction, Address stack);

/// The register of a number in the ABI's unwind tables; false for one that has no place here.
bool read_dwarf_register(const Registers& registers, int number, std::uintptr_t& value);

/// The register set (NT_…) that holds all floating-point and vector state, and its largest size.
extern const unsigned kVectorStateSet;
constexpr std::size_t kMaxVectorStateBytes = 16384;

/// Whether the thread is in, or has just come out of, a system call: what the registers say of it.
struct SystemCallState {
    long number = -1;  ///< -1: it is not in one
    long result = 0;   ///< -errno, one of the kernel's -ERESTART… codes, or a result
    std::uintptr_t arguments[6] = {};

    [[nodiscard]] bool is_in_call() const { return number >= 0; }
    /// The kernel will restart it, or fail it with EINTR, when the thread goes on.
    [[nodiscard]] bool is_interrupted() const;
};
[[nodiscard]] SystemCallState system_call_state(const Registers& registers);

/// Makes the registers those of a thread that is in no system call.
void leave_system_call(Registers& registers);

/// The result of the call that a thread stopped behind has made.
[[nodiscard]] long system_call_result(const Registers& registers);

/// A few blocking calls report EINTR themselves when a tracer stops them, though no signal came
/// (epoll_wait, sigtimedwait, semop, io_getevents, io_uring_enter). Where such a call waits without
/// a time limit, this changes the registers so that the kernel treats it like the others: restarted
/// if no handler runs, EINTR if one does. With a time limit it is left alone, for a restart would
/// wait anew for the whole time; but for a socket's own time limit (SO_RCVTIMEO), which then begins
/// anew: few programs expect an EINTR there. True if changed.
bool restart_instead_of_eintr(Registers& registers);

/// Makes a call that the thread itself would have to take up again by restart_syscall(2) report
/// EINTR instead, as after a signal: for threads that may not make that call. True if changed.
bool eintr_instead_of_restart_call(Registers& registers);

/// AUDIT_ARCH_…: how seccomp filters know this program's system calls.
extern const std::uint32_t kAuditArchitecture;

/// Whether a thread blocked in this call may be borrowed: calls that wait for the outside world, as
/// opposed to those that allocators and the loader make.
[[nodiscard]] bool is_waiting_call(long number);
/// Whether the call reports EINTR to the program when a tracer stops it, whatever the tracer does.
[[nodiscard]] bool is_disturbed_by_stop(const SystemCallState& call);
[[nodiscard]] bool is_futex(long number);

/// Registers of a thread that shall make a system call from `instructions`, a system call followed
/// by a return, and return to what lies at `stack`.
Registers make_system_call(const Registers& from, Address instructions, Address stack, long number,
                           std::span<const std::uintptr_t> arguments);
/// Registers of a thread that shall run the stub from `start` (echion_stub_start): it makes
/// `data_bytes` bytes at `data` writable, and goes on in echion_stub_spawn(data) with the stack
/// pointer `stack`; if that is refused, it goes the way back that begins at `way_back` at once.
Registers make_stub_call(const Registers& from, Address start, Address stack, Address data,
                         std::size_t data_bytes, Address way_back);

/// A stack that signal handlers run on, as sigaltstack(2) was told.
struct AlternateStack {
    Address start;
    std::size_t size_bytes = 0;
};
/// The one that was in force when the kernel made a signal handler's frame; `frame`: what lies
/// behind the handler's return address. Nothing if there was none.
std::optional<AlternateStack> find_alternate_stack(std::span<const std::byte> frame);

/// A way back that needs no tracer: memory to be placed on the thread's own stack, below what it
/// uses. A thread that "returns" with the stack pointer at `entry` runs sigreturn and is as it was.
/// If it was in a system call that the kernel would have restarted, it makes that call again; one
/// that can only be restarted by the kernel itself fails with EINTR, as after a signal.
struct WayBack {
    Address place;  ///< where the bytes belong
    std::vector<std::byte> bytes;
    Address entry;  ///< value of the stack pointer
};
WayBack make_way_back(const ThreadContext& context, Address sigreturn_instructions);

/// Finds a system call instruction that is followed by a return, in a copy of the C library's
/// syscall() function; the offset of the instruction.
Result<std::size_t> find_system_call_and_return(std::span<const std::byte> code);
/// Finds the code that calls sigreturn, in a copy of (a part of) the C library's text.
Result<std::size_t> find_sigreturn(std::span<const std::byte> code);

}  // namespace echion::inject::arch
