// The C library's functions of the time and of waiting, as system_calls_x86_64.cpp has the others:
// also for the program, which shares a clock with the agent.

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>

#include "platform/linux/raw_call_x86_64.h"
#include "platform/linux/vdso_clock.h"

using echion::kernel_call;
using echion::read_kernel_clock;
using echion::settle;

static_assert(sizeof(long) == 8 && sizeof(time_t) == 8, "structures are passed as they are");

extern "C" {

int clock_gettime(clockid_t clock, timespec* into) noexcept {
    return settle(read_kernel_clock(clock, into));
}

int clock_getres(clockid_t clock, timespec* into) noexcept {
    return settle(echion::read_kernel_clock_resolution(clock, into));
}

/// Returns the error itself.
int clock_nanosleep(clockid_t clock, int flags, const timespec* time, timespec* left) {
    return static_cast<int>(-kernel_call(SYS_clock_nanosleep, clock, flags, time, left));
}

int poll(pollfd* fds, nfds_t count, int timeout_ms) {
    return settle(kernel_call(SYS_poll, fds, count, timeout_ms));
}

// The kernel writes the time that is left; the C library's callers do not expect that.
int ppoll(pollfd* fds, nfds_t count, const timespec* timeout, const sigset_t* mask) {
    timespec left = timeout == nullptr ? timespec{} : *timeout;
    return settle(kernel_call(SYS_ppoll, fds, count, timeout == nullptr ? nullptr : &left, mask,
                              echion::kSignalSetBytes));
}

// Of the program alone.

int epoll_wait(int epoll, epoll_event* events, int room, int timeout_ms) {
    return settle(kernel_call(SYS_epoll_wait, epoll, events, room, timeout_ms));
}

int timerfd_settime(int timer, int flags, const itimerspec* when, itimerspec* before) noexcept {
    return settle(kernel_call(SYS_timerfd_settime, timer, flags, when, before));
}

}  // extern "C"
