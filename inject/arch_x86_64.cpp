#include <cpuid.h>
#include <elf.h>
#include <linux/audit.h>
#include <linux/io_uring.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "inject/arch.h"

namespace echion::inject::arch {
namespace {

// The kernel's codes for calls that it restarts itself (include/linux/errno.h); user space never
// sees them, a tracer does.
constexpr long kErestartsys = 512;
constexpr long kErestartnointr = 513;
constexpr long kErestartnohand = 514;
constexpr long kErestartRestartblock = 516;

constexpr std::size_t kSystemCallBytes = 2;  // 0f 05

// Below its stack pointer a function may use 128 bytes (System V ABI, 3.2.2).
constexpr std::size_t kRedZoneBytes = 128;

// struct ucontext as the kernel reads it in rt_sigreturn (arch/x86/include/uapi/asm/sigcontext.h,
// ucontext.h). Not glibc's ucontext_t, whose signal set is longer.
struct SignalContext {
    std::uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    std::uint64_t rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags;
    std::uint16_t cs, gs, fs, ss;
    std::uint64_t error, trap, old_mask, cr2;
    std::uint64_t vector_state;  // address
    std::uint64_t reserved[8];
};
struct UserContext {
    std::uint64_t flags;
    std::uint64_t link;
    std::uint64_t stack_pointer;
    std::uint32_t stack_flags;
    std::uint32_t stack_padding;
    std::uint64_t stack_size;
    SignalContext context;
    std::uint64_t blocked_signals;
};
static_assert(sizeof(SignalContext) == 256);
static_assert(sizeof(UserContext) == 304);

constexpr std::uint64_t kHasExtendedState = 1;  // UC_FP_XSTATE
constexpr std::uint64_t kHasStackSegment = 2;   // UC_SIGCONTEXT_SS
constexpr std::uint64_t kRestoreStackSegment = 4;
// No valid mode of sigaltstack(2): the kernel refuses it and keeps the alternate stack as it is.
constexpr std::uint32_t kKeepAlternateStack = 0x7fff;

// struct _fpx_sw_bytes, in the part of the FXSAVE area that is left to software.
struct SoftwareBytes {
    std::uint32_t magic1;
    std::uint32_t extended_size;
    std::uint64_t features;
    std::uint32_t state_size;
    std::uint32_t padding[7];
};
static_assert(sizeof(SoftwareBytes) == 48);
constexpr std::size_t kSoftwareBytesOffset = 464;
constexpr std::size_t kStateHeaderOffset = 512;
constexpr std::uint32_t kMagic1 = 0x46505853;
constexpr std::uint32_t kMagic2 = 0x46505845;
constexpr std::size_t kVectorStateAlignment = 64;

// State of the matrix unit (AMX tiles). The kernel accepts it in a signal frame only from threads
// that have asked for it, and such threads alone have it in use.
constexpr unsigned kTileComponent = 18;

template <typename T>
void store(std::vector<std::byte>& bytes, std::size_t offset, const T& value) {
    std::memcpy(bytes.data() + offset, &value, sizeof(value));
}

template <typename T>
T fetch(const std::vector<std::byte>& bytes, std::size_t offset) {
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof(value));
    return value;
}

/// The extended state as a signal frame wants it: the kernel's own copy with the frame's marks.
std::vector<std::byte> make_frame_state(std::vector<std::byte> state) {
    if (state.size() < kStateHeaderOffset + sizeof(std::uint64_t)) {
        return {};
    }
    // In the tracer's copy, the first of the software's words holds the enabled components.
    auto features = fetch<std::uint64_t>(state, kSoftwareBytesOffset);
    const auto in_use = fetch<std::uint64_t>(state, kStateHeaderOffset);
    constexpr std::uint64_t kTileBit = std::uint64_t{1} << kTileComponent;
    if ((features & kTileBit) != 0 && (in_use & kTileBit) == 0) {
        unsigned size = 0;
        unsigned offset = 0;
        unsigned flags = 0;
        unsigned unused = 0;
        __cpuid_count(0xd, kTileComponent, size, offset, flags, unused);
        if (offset >= kStateHeaderOffset && offset < state.size()) {
            state.resize(offset);
            features &= ~kTileBit;
        }
    }
    SoftwareBytes software{};
    software.magic1 = kMagic1;
    software.state_size = static_cast<std::uint32_t>(state.size());
    software.extended_size = software.state_size + static_cast<std::uint32_t>(sizeof(kMagic2));
    software.features = features;
    store(state, kSoftwareBytesOffset, software);
    const std::size_t end = state.size();
    state.resize(end + sizeof(kMagic2));
    store(state, end, kMagic2);
    return state;
}

/// Where and with which result the thread goes on when nobody but itself restores it.
void resolve_restart(Registers& registers) {
    if (static_cast<std::int64_t>(registers.orig_rax) < 0) {
        return;
    }
    switch (-static_cast<std::int64_t>(registers.rax)) {
        case kErestartsys:
        case kErestartnointr:
        case kErestartnohand:
            registers.rax = registers.orig_rax;
            registers.rip -= kSystemCallBytes;
            break;
        case kErestartRestartblock:
            registers.rax = static_cast<unsigned long long>(-EINTR);
            break;
        default:
            break;
    }
}

bool has_pattern(std::span<const std::byte> code, std::size_t at,
                 std::span<const unsigned char> pattern) {
    return code.size() - at >= pattern.size() &&
           std::memcmp(code.data() + at, pattern.data(), pattern.size()) == 0;
}

}  // namespace

const unsigned kVectorStateSet = NT_X86_XSTATE;
const std::uint32_t kAuditArchitecture = AUDIT_ARCH_X86_64;

Address instruction_pointer(const Registers& registers) { return Address(registers.rip); }
Address stack_pointer(const Registers& registers) { return Address(registers.rsp); }
Address thread_pointer(const Registers& registers) { return Address(registers.fs_base); }

Registers make_place(Address instruction, Address stack) {
    Registers registers{};
    registers.rip = instruction.value();
    registers.rsp = stack.value();
    return registers;
}

bool read_dwarf_register(const Registers& registers, int number, std::uintptr_t& value) {
    // System V ABI, figure 3.36.
    static constexpr std::array kPlaces = {
        &Registers::rax, &Registers::rdx, &Registers::rcx, &Registers::rbx, &Registers::rsi,
        &Registers::rdi, &Registers::rbp, &Registers::rsp, &Registers::r8,  &Registers::r9,
        &Registers::r10, &Registers::r11, &Registers::r12, &Registers::r13, &Registers::r14,
        &Registers::r15, &Registers::rip,
    };
    if (number < 0 || static_cast<std::size_t>(number) >= kPlaces.size()) {
        return false;
    }
    value = registers.*kPlaces[static_cast<std::size_t>(number)];
    return true;
}

bool SystemCallState::is_interrupted() const {
    return is_in_call() &&
           (result == -EINTR || (result <= -kErestartsys && result >= -kErestartRestartblock));
}

SystemCallState system_call_state(const Registers& registers) {
    return {
        static_cast<long>(registers.orig_rax),
        static_cast<long>(registers.rax),
        {registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9}};
}

long system_call_result(const Registers& registers) { return static_cast<long>(registers.rax); }

void leave_system_call(Registers& registers) { registers.orig_rax = ~0ULL; }

bool is_disturbed_by_stop(const SystemCallState& call) {
    switch (call.number) {
        case SYS_epoll_wait:
        case SYS_epoll_pwait:
        case SYS_epoll_pwait2:
        case SYS_rt_sigtimedwait:
        case SYS_semop:
        case SYS_semtimedop:
        case SYS_io_getevents:
        case SYS_io_pgetevents:
        case SYS_io_uring_enter:
            return true;
        default:
            return false;
    }
}

bool eintr_instead_of_restart_call(Registers& registers) {
    if (system_call_state(registers).result != -kErestartRestartblock) {
        return false;
    }
    registers.rax = static_cast<unsigned long long>(-EINTR);
    return true;
}

bool restart_instead_of_eintr(Registers& registers) {
    const SystemCallState call = system_call_state(registers);
    if (call.result != -EINTR) {
        return false;
    }
    bool may_restart = false;
    switch (call.number) {
        case SYS_epoll_wait:
        case SYS_epoll_pwait:
            may_restart = static_cast<int>(call.arguments[3]) < 0;
            break;
        case SYS_epoll_pwait2:
        case SYS_semtimedop:
            may_restart = call.arguments[3] == 0;
            break;
        case SYS_rt_sigtimedwait:
            may_restart = call.arguments[2] == 0;
            break;
        case SYS_io_getevents:
        case SYS_io_pgetevents:
            may_restart = call.arguments[4] == 0;
            break;
        case SYS_semop:
            may_restart = true;
            break;
        case SYS_io_uring_enter:
            // It has handed in nothing, else that would be its result; without the longer form of
            // its last argument it has no time limit (io_uring/io_uring.c).
            may_restart = (call.arguments[3] & IORING_ENTER_EXT_ARG) == 0;
            break;
        // On a socket with SO_RCVTIMEO or SO_SNDTIMEO. Such limits are for waits that have gone
        // wrong; without a limit these never report it.
        case SYS_read:
        case SYS_readv:
        case SYS_recvfrom:
        case SYS_recvmsg:
        case SYS_accept:
        case SYS_accept4:
        case SYS_write:
        case SYS_writev:
        case SYS_sendto:
        case SYS_sendmsg:
            may_restart = true;
            break;
        default:
            break;
    }
    if (may_restart) {
        registers.rax = static_cast<unsigned long long>(-kErestartnohand);
    }
    return may_restart;
}

bool is_waiting_call(long number) {
    static constexpr std::array kCalls = {
        SYS_read,
        SYS_write,
        SYS_readv,
        SYS_writev,
        SYS_pread64,
        SYS_pwrite64,
        SYS_poll,
        SYS_ppoll,
        SYS_select,
        SYS_pselect6,
        SYS_epoll_wait,
        SYS_epoll_pwait,
        SYS_epoll_pwait2,
        SYS_pause,
        SYS_nanosleep,
        SYS_clock_nanosleep,
        SYS_accept,
        SYS_accept4,
        SYS_connect,
        SYS_recvfrom,
        SYS_recvmsg,
        SYS_recvmmsg,
        SYS_sendto,
        SYS_sendmsg,
        SYS_sendmmsg,
        SYS_wait4,
        SYS_waitid,
        SYS_flock,
        SYS_fcntl,
        SYS_msgrcv,
        SYS_msgsnd,
        SYS_semop,
        SYS_semtimedop,
        SYS_rt_sigtimedwait,
        SYS_rt_sigsuspend,
        SYS_io_getevents,
        SYS_io_pgetevents,
        SYS_io_uring_enter,
        SYS_futex,
        SYS_restart_syscall,
        SYS_sendfile,
        SYS_splice,
        SYS_ioctl,
        SYS_open,
        SYS_openat,
        SYS_sched_yield,
        SYS_mq_timedreceive,
        SYS_mq_timedsend,
    };
    return std::find(kCalls.begin(), kCalls.end(), number) != kCalls.end();
}

bool is_futex(long number) { return number == SYS_futex; }

Registers make_system_call(const Registers& from, Address instructions, Address stack, long number,
                           std::span<const std::uintptr_t> arguments) {
    Registers registers = from;
    std::array<std::uintptr_t, 6> values{};
    std::copy_n(arguments.begin(), std::min(arguments.size(), values.size()), values.begin());
    registers.rdi = values[0];
    registers.rsi = values[1];
    registers.rdx = values[2];
    registers.r10 = values[3];
    registers.r8 = values[4];
    registers.r9 = values[5];
    registers.rax = static_cast<unsigned long long>(number);
    // Not in a system call: else the kernel would restart the one that was interrupted.
    registers.orig_rax = ~0ULL;
    registers.rip = instructions.value();
    registers.rsp = stack.value();
    return registers;
}

Registers make_stub_call(const Registers& from, Address start, Address stack, Address data,
                         std::size_t data_bytes, Address way_back) {
    Registers registers = from;
    registers.rax = SYS_mprotect;
    registers.rdi = data.value();
    registers.rsi = data_bytes;
    registers.rdx = PROT_READ | PROT_WRITE;
    registers.rbx = data.value();
    registers.r12 = way_back.value();
    registers.orig_rax = ~0ULL;
    registers.rip = start.value();
    // As behind a call instruction: 8 bytes short of 16-byte alignment. The return address there is
    // null: the function does not return, and an unwinder ends there.
    registers.rsp = (stack.value() & ~std::uintptr_t{15}) - 8;
    registers.rbp = 0;
    registers.eflags &= ~0x400ULL;  // the ABI wants the direction flag clear
    return registers;
}

WayBack make_way_back(const ThreadContext& context, Address sigreturn_instructions) {
    // From the top: red zone, vector state (64-byte aligned), user context, sigreturn's address.
    const std::vector<std::byte> state = make_frame_state(context.vector_state);
    const std::uintptr_t top = context.registers.rsp - kRedZoneBytes;
    const std::uintptr_t state_place = (top - state.size()) & ~(kVectorStateAlignment - 1);
    const std::uintptr_t context_place = (state_place - sizeof(UserContext)) & ~std::uintptr_t{15};
    const std::uintptr_t place = context_place - sizeof(std::uintptr_t);

    Registers registers = context.registers;
    resolve_restart(registers);
    UserContext frame{};
    frame.flags = kHasStackSegment | kRestoreStackSegment | (state.empty() ? 0 : kHasExtendedState);
    frame.stack_flags = kKeepAlternateStack;
    SignalContext& saved = frame.context;
    saved.r8 = registers.r8;
    saved.r9 = registers.r9;
    saved.r10 = registers.r10;
    saved.r11 = registers.r11;
    saved.r12 = registers.r12;
    saved.r13 = registers.r13;
    saved.r14 = registers.r14;
    saved.r15 = registers.r15;
    saved.rdi = registers.rdi;
    saved.rsi = registers.rsi;
    saved.rbp = registers.rbp;
    saved.rbx = registers.rbx;
    saved.rdx = registers.rdx;
    saved.rax = registers.rax;
    saved.rcx = registers.rcx;
    saved.rsp = registers.rsp;
    saved.rip = registers.rip;
    saved.eflags = registers.eflags;
    saved.cs = static_cast<std::uint16_t>(registers.cs);
    saved.gs = static_cast<std::uint16_t>(registers.gs);
    saved.fs = static_cast<std::uint16_t>(registers.fs);
    saved.ss = static_cast<std::uint16_t>(registers.ss);
    saved.vector_state = state.empty() ? 0 : state_place;
    frame.blocked_signals = context.blocked_signals;

    WayBack way{Address(place), std::vector<std::byte>(top - place), Address(place)};
    store(way.bytes, 0, sigreturn_instructions.value());
    store(way.bytes, context_place - place, frame);
    std::copy(state.begin(), state.end(),
              way.bytes.begin() + static_cast<std::ptrdiff_t>(state_place - place));
    return way;
}

std::optional<AlternateStack> find_alternate_stack(std::span<const std::byte> frame) {
    UserContext context;
    if (frame.size() < sizeof(context)) {
        return std::nullopt;
    }
    std::memcpy(&context, frame.data(), sizeof(context));
    if ((context.stack_flags & SS_DISABLE) != 0 || context.stack_size == 0) {
        return std::nullopt;
    }
    return AlternateStack{Address(context.stack_pointer), context.stack_size};
}

Result<std::size_t> find_system_call_and_return(std::span<const std::byte> code) {
    // glibc: syscall; cmp $-4095,%rax; jae <error>; ret. musl: syscall; ret.
    static constexpr unsigned char kGlibc[] = {0x0f, 0x05, 0x48, 0x3d, 0x01,
                                               0xf0, 0xff, 0xff, 0x73};
    static constexpr unsigned char kPlain[] = {0x0f, 0x05, 0xc3};
    for (std::size_t at = 0; at < code.size(); ++at) {
        if (has_pattern(code, at, kPlain)) {
            return at;
        }
        const std::size_t behind_jump = at + sizeof(kGlibc) + 1;
        if (has_pattern(code, at, kGlibc) && behind_jump < code.size() &&
            code[behind_jump] == std::byte{0xc3}) {
            return at;
        }
    }
    return fail(ErrorKind::kInvalid, "no system call followed by a return");
}

Result<std::size_t> find_sigreturn(std::span<const std::byte> code) {
    // mov $15,%rax; syscall
    static constexpr unsigned char kPattern[] = {0x48, 0xc7, 0xc0, 0x0f, 0x00,
                                                 0x00, 0x00, 0x0f, 0x05};
    const auto* first = reinterpret_cast<const unsigned char*>(code.data());
    const auto* found =
        std::search(first, first + code.size(), std::begin(kPattern), std::end(kPattern));
    if (found == first + code.size()) {
        return fail(ErrorKind::kInvalid, "no sigreturn");
    }
    return static_cast<std::size_t>(found - first);
}

}  // namespace echion::inject::arch
