// What a stopped thread's registers say of its system call, and how it is made again.

#include "inject/arch.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>

namespace echion::inject::arch {
namespace {

#if defined(__x86_64__)

constexpr long kRestartsys = -512;
constexpr long kRestartnohand = -514;
constexpr long kRestartBlock = -516;
constexpr std::uintptr_t kInstruction = 0x401002;
constexpr std::uintptr_t kStack = 0x7ffd00001238;

Registers in_call(long number, long result) {
    Registers registers{};
    registers.orig_rax = static_cast<unsigned long long>(number);
    registers.rax = static_cast<unsigned long long>(result);
    registers.rip = kInstruction;
    registers.rsp = kStack;
    return registers;
}

TEST(SystemCallState, TellsInterruptedCallsFromFinishedOnes) {
    EXPECT_TRUE(system_call_state(in_call(SYS_read, kRestartsys)).is_interrupted());
    EXPECT_TRUE(system_call_state(in_call(SYS_poll, kRestartBlock)).is_interrupted());
    EXPECT_TRUE(system_call_state(in_call(SYS_epoll_wait, -EINTR)).is_interrupted());
    EXPECT_FALSE(system_call_state(in_call(SYS_read, 5)).is_interrupted());
    EXPECT_FALSE(system_call_state(in_call(SYS_read, -EBADF)).is_interrupted());
    EXPECT_FALSE(system_call_state(in_call(-1, kRestartsys)).is_interrupted());
    EXPECT_FALSE(system_call_state(in_call(-1, 0)).is_in_call());
}

TEST(RestartInsteadOfEintr, ChangesEndlessWaitsOnly) {
    auto registers = in_call(SYS_epoll_wait, -EINTR);
    registers.r10 = static_cast<unsigned long long>(-1);  // no time limit
    EXPECT_TRUE(restart_instead_of_eintr(registers));
    EXPECT_EQ(static_cast<long>(registers.rax), kRestartnohand);

    registers = in_call(SYS_epoll_wait, -EINTR);
    registers.r10 = 1000;
    EXPECT_FALSE(restart_instead_of_eintr(registers));
    EXPECT_EQ(static_cast<long>(registers.rax), -EINTR);

    registers = in_call(SYS_rt_sigtimedwait, -EINTR);
    EXPECT_TRUE(restart_instead_of_eintr(registers));
    registers = in_call(SYS_rt_sigtimedwait, -EINTR);
    registers.rdx = kStack;
    EXPECT_FALSE(restart_instead_of_eintr(registers));
}

TEST(RestartInsteadOfEintr, ChangesRingWaitsWithoutATimeLimit) {
    auto registers = in_call(SYS_io_uring_enter, -EINTR);
    EXPECT_TRUE(is_disturbed_by_stop(system_call_state(registers)));
    EXPECT_TRUE(restart_instead_of_eintr(registers));
    registers = in_call(SYS_io_uring_enter, -EINTR);
    registers.r10 = 8;  // IORING_ENTER_EXT_ARG: with a time limit
    EXPECT_FALSE(restart_instead_of_eintr(registers));
}

TEST(RestartInsteadOfEintr, ChangesSocketsWithATimeLimit) {
    for (const long number : {SYS_read, SYS_recvfrom, SYS_accept4, SYS_sendto}) {
        auto registers = in_call(number, -EINTR);
        EXPECT_TRUE(restart_instead_of_eintr(registers)) << number;
        EXPECT_EQ(static_cast<long>(registers.rax), kRestartnohand) << number;
    }
}

TEST(RestartInsteadOfEintr, LeavesOtherCallsAlone) {
    for (const long number : {SYS_futex, SYS_nanosleep, SYS_poll, SYS_connect}) {
        auto registers = in_call(number, -EINTR);
        EXPECT_FALSE(restart_instead_of_eintr(registers)) << number;
    }
    auto registers = in_call(SYS_epoll_wait, 3);
    registers.r10 = static_cast<unsigned long long>(-1);
    EXPECT_FALSE(restart_instead_of_eintr(registers));
}

/// The registers that a way back would restore: struct sigcontext behind the address of sigreturn
/// and 40 bytes of struct ucontext.
struct Restored {
    std::uint64_t rax, rsp, rip, vector_state;
};
Restored restored_by(const WayBack& way) {
    constexpr std::size_t kContext = 8 + 40;
    const auto at = [&](std::size_t index) {
        std::uint64_t value;
        std::memcpy(&value, way.bytes.data() + kContext + index * 8, sizeof(value));
        return value;
    };
    return {at(13), at(15), at(16), at(23)};
}

WayBack way_back_from(long number, long result) {
    ThreadContext context;
    context.registers = in_call(number, result);
    context.vector_state.resize(2696);
    return make_way_back(context, Address(0x7000));
}

TEST(WayBack, MakesRestartableCallsAgain) {
    const Restored restored = restored_by(way_back_from(SYS_read, kRestartsys));
    EXPECT_EQ(restored.rip, kInstruction - 2);
    EXPECT_EQ(restored.rax, static_cast<std::uint64_t>(SYS_read));
    EXPECT_EQ(restored.rsp, kStack);
}

TEST(WayBack, FailsCallsThatOnlyTheKernelCanRestart) {
    const Restored restored = restored_by(way_back_from(SYS_nanosleep, kRestartBlock));
    EXPECT_EQ(restored.rip, kInstruction);
    EXPECT_EQ(static_cast<long>(restored.rax), -EINTR);
}

TEST(WayBack, KeepsFinishedCallsAndOtherCode) {
    EXPECT_EQ(restored_by(way_back_from(SYS_read, 7)).rip, kInstruction);
    EXPECT_EQ(restored_by(way_back_from(SYS_read, 7)).rax, 7U);
    EXPECT_EQ(restored_by(way_back_from(-1, kRestartsys)).rip, kInstruction);
}

TEST(WayBack, LiesBelowTheRedZoneAndIsAligned) {
    const WayBack way = way_back_from(-1, 0);
    EXPECT_EQ(way.place, way.entry);
    EXPECT_LE(way.place.value() + way.bytes.size(), kStack - 128);
    EXPECT_EQ((way.place.value() + 8) % 16, 0U);
    const Restored restored = restored_by(way);
    EXPECT_EQ(restored.vector_state % 64, 0U);
    EXPECT_GT(restored.vector_state, way.place.value());
    EXPECT_LE(restored.vector_state + 2696, way.place.value() + way.bytes.size());
    std::uint64_t sigreturn;
    std::memcpy(&sigreturn, way.bytes.data(), sizeof(sigreturn));
    EXPECT_EQ(sigreturn, 0x7000U);
}

#endif

}  // namespace
}  // namespace echion::inject::arch
