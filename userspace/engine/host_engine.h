#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <utility>
#include <vector>

#include "base/error.h"
#include "control/control.h"
#include "engine/privileges.h"
#include "model/cpu_ledger.h"

namespace echion::engine {

/// A descriptor that an agent gets with its settings, beside the ring. It stays the engine's.
struct ExtraFd {
    control::FdKind kind;
    int fd;
    std::uint32_t target = 0;         ///< Of kBpfState: the process's number in it.
    std::int64_t clock_ahead_ns = 0;  ///< Likewise: its clock less the kernel's.
};

/// Ticks that have been started.
struct TickReport {
    std::int64_t interval_ns = 0;  ///< longer than asked for if the kernel limits it
    bool snapshots = false;
    /// In what they fall short of the wish: phrases for one line each.
    std::vector<std::string> shortfalls;
};

/// A limit of the kernel's that has fallen below the rate of the ticks.
struct LoweredRate {
    std::int64_t ticks_per_second = 0;
    std::string text;  ///< one line: what that meant, and the remedy
};

/// Why something cannot be had for a process.
struct Refusal {
    std::string why;  ///< a phrase for one line; empty: `error` says it
    Error error{ErrorKind::kRefused};
};

/// The command-line program's half of an engine that the kernel drives: what makes the ticks of
/// agents' processes and tells their CPU time. Everything that it has in the kernel goes with it,
/// or with this process.
///
/// Processes are named by their numbers: the caller sees to it that they are still the agents'
/// before and after each call, and tells of those that are not any more by forget(). What comes
/// from agents is checked. One thread, but for open().
class HostEngine {
  public:
    HostEngine() = default;
    HostEngine(const HostEngine&) = delete;
    HostEngine& operator=(const HostEngine&) = delete;
    virtual ~HostEngine() = default;

    /// What stands in the way of ticks for a process, as far as can be known before they are tried;
    /// empty: nothing.
    [[nodiscard]] virtual std::string why_not(pid_t pid) const = 0;
    /// control::ConfigureFlag of an agent in that process.
    [[nodiscard]] virtual std::uint32_t agent_flags(pid_t) const { return 0; }
    /// What it needs from here on, for processes and threads that come later.
    [[nodiscard]] virtual std::span<const Capability> needed_capabilities() const { return {}; }

    /// Puts a process under watch: what its agent gets for it.
    virtual tl::expected<std::vector<ExtraFd>, Refusal> watch(pid_t pid) = 0;
    /// Starts the ticks of a process for its agent, of `interval_ns`: of CPU time, or of the wall
    /// clock. kProtocol when the request breaks a rule, kSystem with ESRCH when the process, or its
    /// sampler, has ended.
    virtual tl::expected<TickReport, Refusal> arm(pid_t pid, const control::Arm& request, bool wall,
                                                  std::int64_t interval_ns) = 0;
    virtual void forget(pid_t pid) = 0;

    /// CPU time of the threads of a process since watch(), its sampler aside; `with_living`: also
    /// of those that have not ended. Nothing from an engine that does not count it.
    virtual std::vector<model::CountedCpu> count_cpu(pid_t pid, bool with_living);
    /// Notes the CPU time of threads that have ended: several times a second.
    virtual void note_ended() {}
    /// To be called about once a second.
    virtual void keep_ticking() {}
    /// Looks whether a limit of the kernel's has fallen: about once a second, and at the end.
    virtual void look_at_rate_limit() {}
    /// The lowest such limit that was seen.
    [[nodiscard]] virtual std::optional<LoweredRate> lowered_rate() const { return std::nullopt; }
    /// Threads that found no room in the kernel's tables.
    [[nodiscard]] virtual std::uint64_t threads_refused() const { return 0; }
    /// Figures for -v, with their names; those that are 0 are left out.
    [[nodiscard]] virtual std::vector<std::pair<std::string, std::uint64_t>> figures() const;
};

}  // namespace echion::engine
