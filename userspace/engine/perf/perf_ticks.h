#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <unordered_map>

#include "base/error.h"
#include "engine/perf/tick_events.h"
#include "engine/privileges.h"

namespace echion::engine {

/// Ticks of CPU time without BPF: a perf event on each thread of a target signals the sampler. An
/// ordinary user may have them for own processes where kernel.perf_event_paranoid is 2 or less, but
/// only for what threads do in user mode.
///
/// The events are this program's: they take no descriptors of the target, and end with it.
class PerfTicks {
  public:
    /// Tries it on the calling thread.
    static tl::expected<PerfTicks, Unavailable> open();

    /// What stands in the way of ticks for the process, by trying; nothing if they can be had.
    [[nodiscard]] std::optional<Unavailable> why_not(pid_t pid) const;

    /// Starts the ticks of a process: `signal` goes to its thread `sampler_tid`, as the target
    /// numbers it, after each `interval_ns` of CPU time of a thread. Not trusted. The interval may
    /// become longer, by the kernel's rate limit: it is returned.
    Result<std::int64_t> start(pid_t pid, std::uint32_t sampler_tid, int signal,
                               std::int64_t interval_ns);
    void stop(pid_t pid) { timers_.erase(pid); }

  private:
    explicit PerfTicks(bool user_only) : user_only_(user_only) {}

    bool user_only_;  // ticks come in user mode only: it is all that this user may have
    std::unordered_map<pid_t, TickEvents> timers_;
};

}  // namespace echion::engine
