#pragma once

#include <sys/syscall.h>

#include <cstdint>

/// What the stub needs of the machine: system calls without a C library, and the jump back. One
/// block for each architecture.
namespace echion::inject {

#if defined(__x86_64__)

[[gnu::always_inline]] inline long stub_call(long number, std::uintptr_t a = 0,
                                             std::uintptr_t b = 0, std::uintptr_t c = 0,
                                             std::uintptr_t d = 0, std::uintptr_t e = 0,
                                             std::uintptr_t f = 0) {
    long result;
    register std::uintptr_t r10 asm("r10") = d;
    register std::uintptr_t r8 asm("r8") = e;
    register std::uintptr_t r9 asm("r9") = f;
    asm volatile("syscall"
                 : "=a"(result)
                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                 : "rcx", "r11", "memory");
    return result;
}

/// Makes a system call from instructions of the target's C library, which then return to what lies
/// at `stack`: so that by the time the kernel acts, this thread executes nothing here.
[[noreturn, gnu::always_inline]] inline void stub_leave(std::uintptr_t stack,
                                                        std::uintptr_t call_and_return, long number,
                                                        std::uintptr_t a, std::uintptr_t b,
                                                        std::uintptr_t c, std::uintptr_t d,
                                                        std::uintptr_t e, std::uintptr_t f) {
    register std::uintptr_t r10 asm("r10") = d;
    register std::uintptr_t r8 asm("r8") = e;
    register std::uintptr_t r9 asm("r9") = f;
    register std::uintptr_t r12 asm("r12") = stack;
    register std::uintptr_t r13 asm("r13") = call_and_return;
    asm volatile("mov %[stack], %%rsp\n\tjmp *%[target]"
                 :
                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8),
                   "r"(r9), [stack] "r"(r12), [target] "r"(r13)
                 : "memory");
    __builtin_unreachable();
}

// First instructions of the stub, for registers as arch::make_stub_call() sets them. The stack lies
// in memory that only the system call makes writable, so nothing may be pushed before.
#define ECHION_STUB_START     \
    "syscall\n\t"             \
    "test %eax, %eax\n\t"     \
    "jnz 1f\n\t"              \
    "mov %rbx, %rdi\n\t"      \
    "jmp echion_stub_spawn\n" \
    "1:\n\t"                  \
    "mov %r12, %rsp\n\t"      \
    "ret\n\t"

#else
#error "the stub has no system calls for this architecture"
#endif

}  // namespace echion::inject
