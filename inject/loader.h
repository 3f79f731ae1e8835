#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <tl/expected.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "memory/stall_guard.h"
#include "platform/program_image.h"

namespace echion::inject {

/// A shared library to be loaded, and how it is known.
struct AgentImage {
    std::span<const std::byte> bytes;
    /// Name of the memory file in the target's map. An agent that is already mapped under this very
    /// name is taken to be this one, so it contains the image's version or hash. At most 60 bytes.
    std::string name;
    /// The exported function `int entry(int control_fd, int part)`, see AttachPart: 0, or an errno;
    /// it may take a second. The descriptor is its own from then on, also when it refuses.
    std::string entry = "echion_attach";
};

struct InjectLimits {
    /// For finding a safe point. The target is let go untouched at the end of it.
    std::int64_t safe_point_ns = 5 * kNanosPerSecond;
    /// For the helper thread, from its start to the agent's answer.
    std::int64_t load_ns = 10 * kNanosPerSecond;
    /// The program in which Python was seen to have started. Another one by now is refused: its
    /// loader may be at work still, and a thread that is made then ends it (glibc elf/dl-tls.c,
    /// _dl_allocate_tls_init).
    std::optional<ProgramImage> seen;
    /// Goes on where it is not known whether a thread's seccomp filter would harm it.
    bool allow_unknown_seccomp = false;
    /// Asked at every wait: whether to give up at once, and leave the target as it was. Any thread.
    std::function<bool()> is_cancelled = [] { return false; };
    /// Told of each read of the target's memory, if there is one.
    StallGuard* guard = nullptr;
};

/// What an injection cost the target.
struct InjectCost {
    /// Of the borrowed thread, from its stop until it was let go; if it was running, from when it
    /// was asked to stop.
    std::int64_t pause_ns = 0;
    std::int64_t probes_ns = 0;     ///< sum of the stops before it that found no safe point
    std::int64_t max_probe_ns = 0;  ///< the longest of those
    unsigned probes = 0;            ///< their number
    std::int64_t total_ns = 0;      ///< from the call to the agent's answer
    pid_t borrowed_tid = 0;
    std::string borrowed_doing;  ///< what that thread was doing
};

struct Injection {
    UniqueFd channel;    ///< our end of the control socket (SOCK_SEQPACKET)
    UniqueFd process;    ///< of the target; polls readable when it has ended
    ProgramImage image;  ///< that it runs
    bool reused = false;
    InjectCost cost;
};

/// Error::what of an InjectFailure: the target may map no memory.
inline constexpr char kMapMemory[] = "map memory";

/// Why it did not work. `text` is one line for the user, without "echion:", and says what to do. It
/// may hold words of the target (its name, its loader's message): control characters and all.
struct InjectFailure {
    Error error;
    std::string text;
    /// The error is what a call gave in the target, whose limits and filters may be behind it.
    bool is_targets = false;
};

using InjectResult = tl::expected<Injection, InjectFailure>;

/// Reads what inject_agent() will read of a process before it touches it, for nothing: in a process
/// aside, which pages that do not answer may keep.
void read_ahead(pid_t pid, StallGuard* guard);

/// Brings the agent into a running process and calls its entry with one end of a new control
/// socket; returns the other end.
///
/// One thread of the target is stopped for some hundreds of microseconds, at a point where that is
/// safe; it makes a helper thread, which loads the library by the target's own dynamic loader. No
/// file is made, no other thread is stopped, the stopped thread goes on exactly where it was. If
/// this process dies at any moment, the target goes on unharmed.
///
/// Call from one thread; it may take up to the limits' sum, or longer where the target's memory or
/// files stall. The target is not waited for or reaped. The threads of this process are best to
/// block SIGCHLD: the kernel tells by it of stops.
tl::expected<Injection, InjectFailure> inject_agent(pid_t pid, const AgentImage& image,
                                                    const InjectLimits& limits = {});

}  // namespace echion::inject
