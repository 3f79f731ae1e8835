#pragma once

#include <sys/syscall.h>

// close_range(2), from Linux 5.9 on. Older headers lack it (include/uapi/linux/close_range.h).
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE (1U << 1)
#endif
