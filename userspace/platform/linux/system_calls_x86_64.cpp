// The C library's system calls, for all that is linked into the agent's library: defined here under
// the C library's names, which the linker takes before it looks outside, and which the library's
// list of exports (agent/exports.map) keeps inside. So the agent gets what the kernel says,
// whatever other libraries of the target put in front of these functions (libfaketime, fakeroot,
// memory profilers, a test's mocks), and none of them sees a call of the agent's.
// docs/agent-calls.md tells what is left to the C library, and why. time_calls_x86_64.cpp has those
// of the time.
//
// As in the C library: -1 and `errno`, which is the calling thread's. Not as there: none is a
// cancellation point. Any thread; all are signal-safe.

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstring>

#include "platform/linux/raw_call_x86_64.h"

namespace {

using echion::kernel_call;
using echion::kSignalSetBytes;
using echion::settle;

static_assert(sizeof(long) == 8 && sizeof(off_t) == 8, "structures are passed as they are");

/// `set` without the two signals that are the C library's own (nptl/internaltypes.h: SIGCANCEL,
/// SIGSETXID). Blocked, the second would make a setuid() of the program wait for ever.
sigset_t without_internal_signals(const sigset_t& set) {
    sigset_t kept = set;
    kept.__val[0] &= ~(std::uint64_t{3} << 31U);  // 32 and 33
    return kept;
}

}  // namespace

extern "C" {

// Files.

int open(const char* path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    const bool has_mode = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
    const mode_t mode = has_mode ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return settle(kernel_call(SYS_openat, AT_FDCWD, path, flags, mode));
}

int close(int fd) { return settle(kernel_call(SYS_close, fd)); }

ssize_t read(int fd, void* into, size_t size) {
    return settle<ssize_t>(kernel_call(SYS_read, fd, into, size));
}

ssize_t write(int fd, const void* from, size_t size) {
    return settle<ssize_t>(kernel_call(SYS_write, fd, from, size));
}

ssize_t pread(int fd, void* into, size_t size, off_t offset) {
    return settle<ssize_t>(kernel_call(SYS_pread64, fd, into, size, offset));
}

ssize_t pread64(int fd, void* into, size_t size, off64_t offset) {
    return settle<ssize_t>(kernel_call(SYS_pread64, fd, into, size, offset));
}

ssize_t pwrite(int fd, const void* from, size_t size, off_t offset) {
    return settle<ssize_t>(kernel_call(SYS_pwrite64, fd, from, size, offset));
}

off_t lseek(int fd, off_t offset, int whence) noexcept {
    return settle<off_t>(kernel_call(SYS_lseek, fd, offset, whence));
}

ssize_t readlink(const char* path, char* into, size_t size) noexcept {
    return settle<ssize_t>(kernel_call(SYS_readlink, path, into, size));
}

int fstat(int fd, struct stat* into) noexcept { return settle(kernel_call(SYS_fstat, fd, into)); }

int statx(int folder, const char* path, int flags, unsigned mask, struct statx* into) noexcept {
    return settle(kernel_call(SYS_statx, folder, path, flags, mask, into));
}

int ftruncate(int fd, off_t size) noexcept { return settle(kernel_call(SYS_ftruncate, fd, size)); }

// Commands that take a pointer get it whole, those that take an int its low half.
int fcntl(int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    const unsigned long argument = va_arg(arguments, unsigned long);
    va_end(arguments);
    return settle(kernel_call(SYS_fcntl, fd, command, argument));
}

int isatty(int fd) noexcept {
    alignas(8) char settings[256];  // the kernel's termios, of 36 bytes, which is not glibc's
    return settle(kernel_call(SYS_ioctl, fd, TCGETS, settings)) == 0 ? 1 : 0;
}

// Memory.

void* mmap(void* address, size_t size, int protection, int flags, int fd, off_t offset) noexcept {
    const long result = kernel_call(SYS_mmap, address, size, protection, flags, fd, offset);
    return reinterpret_cast<void*>(settle<long>(result));
}

int munmap(void* address, size_t size) noexcept {
    return settle(kernel_call(SYS_munmap, address, size));
}

int mprotect(void* address, size_t size, int protection) noexcept {
    return settle(kernel_call(SYS_mprotect, address, size, protection));
}

int madvise(void* address, size_t size, int advice) noexcept {
    return settle(kernel_call(SYS_madvise, address, size, advice));
}

int memfd_create(const char* name, unsigned flags) noexcept {
    return settle(kernel_call(SYS_memfd_create, name, flags));
}

// Sockets.

int socketpair(int domain, int type, int protocol, int fds[2]) noexcept {
    return settle(kernel_call(SYS_socketpair, domain, type, protocol, fds));
}

ssize_t send(int fd, const void* from, size_t size, int flags) {
    return settle<ssize_t>(kernel_call(SYS_sendto, fd, from, size, flags, nullptr, 0));
}

ssize_t recv(int fd, void* into, size_t size, int flags) {
    return settle<ssize_t>(kernel_call(SYS_recvfrom, fd, into, size, flags, nullptr, nullptr));
}

ssize_t sendmsg(int fd, const msghdr* message, int flags) {
    return settle<ssize_t>(kernel_call(SYS_sendmsg, fd, message, flags));
}

ssize_t recvmsg(int fd, msghdr* message, int flags) {
    return settle<ssize_t>(kernel_call(SYS_recvmsg, fd, message, flags));
}

// Processors.

int sched_yield() noexcept { return settle(kernel_call(SYS_sched_yield)); }

int sched_getcpu() noexcept {
    unsigned cpu = 0;
    const int result = settle(kernel_call(SYS_getcpu, &cpu, nullptr, nullptr));
    return result < 0 ? result : static_cast<int>(cpu);
}

// Signals and processes.

/// Returns the error itself.
int pthread_sigmask(int how, const sigset_t* set, sigset_t* before) noexcept {
    sigset_t allowed;
    if (set != nullptr && how != SIG_UNBLOCK) {
        allowed = without_internal_signals(*set);
        set = &allowed;
    }
    if (before != nullptr) {
        std::memset(before, 0, sizeof(*before));
    }
    return static_cast<int>(-kernel_call(SYS_rt_sigprocmask, how, set, before, kSignalSetBytes));
}

int sigtimedwait(const sigset_t* set, siginfo_t* info, const timespec* timeout) {
    return settle(kernel_call(SYS_rt_sigtimedwait, set, info, timeout, kSignalSetBytes));
}

int kill(pid_t pid, int signal) noexcept { return settle(kernel_call(SYS_kill, pid, signal)); }

pid_t getpid() noexcept { return static_cast<pid_t>(kernel_call(SYS_getpid)); }

int prctl(int option, ...) noexcept {
    va_list arguments;
    va_start(arguments, option);
    unsigned long words[4];
    for (unsigned long& word : words) {
        word = va_arg(arguments, unsigned long);
    }
    va_end(arguments);
    return settle(kernel_call(SYS_prctl, option, words[0], words[1], words[2], words[3]));
}

int getrlimit(__rlimit_resource_t resource, rlimit* into) noexcept {
    return settle(kernel_call(SYS_prlimit64, 0, static_cast<int>(resource), nullptr, into));
}

int getrusage(__rusage_who_t who, rusage* into) noexcept {
    return settle(kernel_call(SYS_getrusage, static_cast<int>(who), into));
}

// What has not been given is what the registers and the stack hold: the kernel does not look at it.
long syscall(long number, ...) noexcept {
    va_list arguments;
    va_start(arguments, number);
    std::uintptr_t words[6];
    for (std::uintptr_t& word : words) {
        word = va_arg(arguments, std::uintptr_t);
    }
    va_end(arguments);
    return settle<long>(
        echion::raw_call(number, words[0], words[1], words[2], words[3], words[4], words[5]));
}

// The environment.

// Programs have a getenv() of their own: a shell's knows its variables.
char* getenv(const char* name) noexcept {
    const std::size_t length = std::strlen(name);
    for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
        if (std::strncmp(*entry, name, length) == 0 && (*entry)[length] == '=') {
            return *entry + length + 1;
        }
    }
    return nullptr;
}

}  // extern "C"
