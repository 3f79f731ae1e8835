#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "base/function_ref.h"
#include "cli/agent_process.h"

namespace echion::cli {

/// Processes whose agents have gone without a word: most are about to end, or to be another
/// program; of some, the sampler alone was killed (a seccomp filter that kills the calling thread).
/// One thread.
class LostSamplers {
  public:
    /// Watches the process from now on (CLOCK_MONOTONIC ns), if there is room: each costs a
    /// descriptor.
    void add(AgentProcess process, std::int64_t now_ns);
    /// Calls `on_lost` for each process that lives on without its sampler, once, and forgets it and
    /// those that have ended, run another program, or are sampled again.
    void look(std::int64_t now_ns, FunctionRef<bool(pid_t)> is_sampled,
              FunctionRef<void(pid_t)> on_lost);
    void clear() { watched_.clear(); }
    [[nodiscard]] bool is_empty() const { return watched_.empty(); }
    /// Processes that there was no room for.
    [[nodiscard]] std::uint64_t unwatched() const { return unwatched_; }

  private:
    struct Watched {
        AgentProcess process;
        std::int64_t since_ns;
    };
    std::vector<Watched> watched_;
    std::uint64_t unwatched_ = 0;
};

}  // namespace echion::cli
