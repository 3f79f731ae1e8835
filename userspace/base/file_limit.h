#pragma once

#include <sys/resource.h>

namespace echion {

/// Lets this process open as many files as it may: each thread of a target can take one.
inline void raise_file_limit() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

}  // namespace echion
