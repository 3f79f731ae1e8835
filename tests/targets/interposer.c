/* What tests and tools put in front of the C library's functions, to be preloaded: clocks that
   stand still and waits that are over at once, for all callers, as libfaketime has them; and in the
   agent's threads, which are called `echion`, system calls that fail, as mocks have them. Calls
   that these threads make are counted by name in the file that ECHION_TEST_INTERPOSED names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* By instruction: syscall() is one of those that fail. */
static long call(long number, long a, long b, long c, long d) {
    long result;
    register long fourth __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth)
                     : "rcx", "r11", "memory");
    return result;
}

static int is_agent(void) {
    char name[16] = "";
    call(SYS_prctl, PR_GET_NAME, (long)name, 0, 0);
    return strncmp(name, "echion", 6) == 0;
}

static void note(const char* name) {
    static const char variable[] = "ECHION_TEST_INTERPOSED=";
    for (char** entry = environ; *entry != NULL; ++entry) {
        if (strncmp(*entry, variable, sizeof(variable) - 1) == 0) {
            const char* path = *entry + sizeof(variable) - 1;
            const long file =
                call(SYS_openat, AT_FDCWD, (long)path, O_WRONLY | O_CREAT | O_APPEND, 0666);
            call(SYS_write, file, (long)name, (long)strlen(name), 0);
            call(SYS_write, file, (long)"\n", 1, 0);
            call(SYS_close, file, 0, 0, 0);
        }
    }
}

/* The clock that stands still, for all. */
static const struct timespec frozen = {1577836800, 0};

int clock_gettime(clockid_t clock, struct timespec* into) {
    if (is_agent()) note("clock_gettime");
    if (clock != CLOCK_MONOTONIC && clock != CLOCK_REALTIME && clock != CLOCK_BOOTTIME)
        return (int)call(SYS_clock_gettime, clock, (long)into, 0, 0) < 0 ? -1 : 0;
    *into = frozen;
    return 0;
}

int clock_getres(clockid_t clock, struct timespec* into) {
    if (is_agent()) note("clock_getres");
    return (int)call(SYS_clock_getres, clock, (long)into, 0, 0) < 0 ? -1 : 0;
}

time_t time(time_t* into) {
    if (is_agent()) note("time");
    if (into != NULL) *into = frozen.tv_sec;
    return frozen.tv_sec;
}

int gettimeofday(struct timeval* into, void* zone) {
    (void)zone;
    if (is_agent()) note("gettimeofday");
    into->tv_sec = frozen.tv_sec;
    into->tv_usec = 0;
    return 0;
}

#define OVER_AT_ONCE(name, ...)      \
    int name(__VA_ARGS__) {          \
        if (is_agent()) note(#name); \
        return 0;                    \
    }

OVER_AT_ONCE(nanosleep, const struct timespec* a, struct timespec* b)
OVER_AT_ONCE(clock_nanosleep, clockid_t a, int b, const struct timespec* c, struct timespec* d)
OVER_AT_ONCE(usleep, useconds_t a)
OVER_AT_ONCE(poll, struct pollfd* a, nfds_t b, int c)
OVER_AT_ONCE(ppoll, struct pollfd* a, nfds_t b, const struct timespec* c, const sigset_t* d)

/* Those that fail in the agent's threads and go on to the C library's for others. Their arguments
   are integers and pointers, at most six of them; defined under names of their own, as the headers
   declare them otherwise. */
#define FAILS(name)                                                     \
    long own_##name(long, long, long, long, long, long) __asm__(#name); \
    long own_##name(long a, long b, long c, long d, long e, long f) {   \
        static long (*next)(long, long, long, long, long, long);        \
        if (is_agent()) {                                               \
            note(#name);                                                \
            errno = ENOSYS;                                             \
            return -1;                                                  \
        }                                                               \
        if (next == NULL) *(void**)&next = dlsym(RTLD_NEXT, #name);     \
        return next(a, b, c, d, e, f);                                  \
    }

FAILS(read)
FAILS(write)
FAILS(open)
FAILS(close)
FAILS(fstat)
FAILS(syscall)
FAILS(getpid)
FAILS(pthread_sigmask)
FAILS(sched_yield)
FAILS(sched_getcpu)
FAILS(prctl)
FAILS(fcntl)
FAILS(recv)
FAILS(recvmsg)
FAILS(send)
FAILS(sendmsg)
FAILS(socketpair)
FAILS(memfd_create)
FAILS(mmap)
FAILS(munmap)
FAILS(mprotect)
FAILS(madvise)
FAILS(lseek)
FAILS(pread)
FAILS(pread64)
FAILS(pwrite)
FAILS(ftruncate)
FAILS(readlink)
FAILS(statx)
FAILS(kill)
FAILS(getrlimit)
FAILS(getrusage)
FAILS(isatty)
FAILS(sigtimedwait)
