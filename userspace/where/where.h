#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace echion::where {

/// Whom to look at, and how.
struct Request {
    pid_t pid = 0;
    /// Follow it for so long; nothing: look once.
    std::optional<std::uint64_t> exposure_ns;
    std::uint64_t interval_ns = 0;  ///< between samples, when it is followed
    std::uint32_t max_frames = 0;   ///< of a stack
    bool cpu = false;               ///< rank stacks by CPU time
    bool json = false;              ///< to standard output, instead of text to standard error
    bool verbose = false;
};

/// Shows where the threads of a process are, or have spent their time. Nothing in the process is
/// stopped or changed. Returns the program's exit status.
int run(const Request& request);

}  // namespace echion::where
