#pragma once

#include <sys/mman.h>

// Guard pages by madvise(2), from Linux 6.13 on. Older headers lack them
// (include/uapi/asm-generic/mman-common.h).
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
