#pragma once

#include <time.h>

namespace echion {

/// clock_gettime(2) as the kernel's own library (vDSO, vdso(7)) has it, without a system call for
/// the clocks of the time; by system call where there is none. 0 or an errno, negated. It is looked
/// for by the first call. Signal-safe, any thread.
int read_kernel_clock(clockid_t clock, timespec* into);
/// Likewise clock_getres(2).
int read_kernel_clock_resolution(clockid_t clock, timespec* into);

}  // namespace echion
