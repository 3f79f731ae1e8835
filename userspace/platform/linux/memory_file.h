#pragma once

#include <sys/mman.h>

#include <cerrno>

#include "base/unique_fd.h"

// From Linux 6.3 on. Older headers lack it (include/uapi/linux/memfd.h).
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U
#endif

namespace echion {

/// A file in memory that nothing will be executed from: memfd_create(2) without a word on that is
/// refused from Linux 6.3 to 6.6 where vm.memfd_noexec is 2. None, with errno, if it cannot be
/// made.
inline UniqueFd make_memory_file(const char* name, unsigned flags) {
    UniqueFd file(memfd_create(name, flags | MFD_NOEXEC_SEAL));
    if (!file && errno == EINVAL) {
        file.reset(memfd_create(name, flags));  // a kernel that does not know it
    }
    return file;
}

}  // namespace echion
