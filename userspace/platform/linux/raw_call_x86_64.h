#pragma once

#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace echion {

/// A system call as the kernel takes it (x86-64): the result, or an errno negated, -1 to -4095.
/// Does not touch `errno`, is no cancellation point, and goes through no function that another
/// library can put itself in front of. Signal-safe.
inline long raw_call(long number, std::uintptr_t a, std::uintptr_t b, std::uintptr_t c,
                     std::uintptr_t d, std::uintptr_t e, std::uintptr_t f) {
    long result;
    register std::uintptr_t fourth asm("r10") = d;
    register std::uintptr_t fifth asm("r8") = e;
    register std::uintptr_t sixth asm("r9") = f;
    asm volatile("syscall"
                 : "=a"(result)
                 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
                 : "rcx", "r11", "memory");
    return result;
}

namespace detail {
template <typename T>
std::uintptr_t as_word(T value) {
    if constexpr (std::is_null_pointer_v<T>) {
        return 0;
    } else if constexpr (std::is_pointer_v<T>) {
        return reinterpret_cast<std::uintptr_t>(value);
    } else {
        return static_cast<std::uintptr_t>(value);
    }
}
}  // namespace detail

/// The same of up to six integers and pointers; signed ones are extended as C does.
template <typename... Arguments>
long kernel_call(long number, Arguments... arguments) {
    static_assert(sizeof...(arguments) <= 6);
    const std::uintptr_t words[6] = {detail::as_word(arguments)...};
    return raw_call(number, words[0], words[1], words[2], words[3], words[4], words[5]);
}

// Of the kernel's set of signals; glibc's is larger.
constexpr std::size_t kSignalSetBytes = 8;

/// What the C library returns for what the kernel did.
template <typename T = int>
T settle(long result) {
    if (result < 0 && result >= -4095) {
        errno = static_cast<int>(-result);
        return static_cast<T>(-1);
    }
    return static_cast<T>(result);
}

}  // namespace echion
