#pragma once

#include <sys/types.h>

#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "cli/agent_process.h"
#include "cli/bpf_session.h"
#include "cli/options.h"
#include "cli/perf_ticks.h"
#include "cli/session.h"
#include "model/cpu_ledger.h"
#include "stream/control.h"

namespace echion::cli {

/// The kernel's part of a run: BPF programs that account for the target's threads, and perf events
/// that tick, where this machine and this user's rights have them. Without BPF, perf events alone
/// make the ticks of CPU time. Without those, agents keep time by themselves. `why_not` says what
/// stands in the way of the better ones.
///
/// Loading takes some 35 ms of CPU time, most of it for the kernel's checking of the programs, so
/// that it goes on in a thread of its own until somebody asks for anything here: make this object
/// first.
///
/// Owns everything that is in the kernel for this run; it goes with this object, or with the
/// process.
class KernelSide {
  public:
    /// Begins to load the programs, unless the options ask for another engine.
    explicit KernelSide(const Options& options);

    /// Waits until loading is over, as all the others do.
    void settle() const;
    [[nodiscard]] bool is_available() const {
        settle();
        return bpf_ != nullptr;
    }
    /// Whether perf events alone are to be had, for some process.
    [[nodiscard]] bool has_perf_events() const {
        settle();
        return perf_.has_value();
    }
    /// Whether perf events alone tick for a process, by trying.
    [[nodiscard]] bool has_perf_ticks(pid_t pid) const;
    /// What makes the ticks of processes that are armed, as the profile names it.
    [[nodiscard]] const char* engine() const { return is_available() ? "bpf" : "perf"; }
    /// In one line, without an end: why the ticks are not the kernel's. Empty where they are, and
    /// where the options ask for that.
    [[nodiscard]] std::string why_not_better() const;
    /// One line, without an end: why the engine that the options insist on cannot be had, at all or
    /// for the process `target`, if there is one already. Empty if it can, as far as is known
    /// before it is tried, or if they
    /// insist on none: then this does not wait.
    [[nodiscard]] std::string why_refused(std::optional<pid_t> target) const;

    /// Puts an agent's process under watch: what its agent gets for it. Where that fails the agent
    /// gets nothing and does without, which is told to the user; if the options insist on the
    /// engine it is an error, in one line.
    tl::expected<std::vector<ExtraFd>, std::string> watch(const AgentProcess& process);
    /// Starts the ticks for an agent that is ready for them; errors likewise, and when the request
    /// breaks a rule or the process is not the agent's any more: neither is trusted.
    tl::expected<control::Armed, std::string> arm(const AgentProcess& process,
                                                  const control::Arm& request);
    /// How often something was an error because the options insist on the engine.
    [[nodiscard]] std::uint64_t refusals() const { return refusals_; }
    /// CPU time of the threads of an agent's process since watch(), its sampler aside;
    /// `with_living`: also of those that have not ended. Nothing without the kernel's ticks.
    [[nodiscard]] std::vector<model::CountedCpu> count_cpu(pid_t pid, bool with_living) const;
    /// Notes the CPU time of threads that have ended: several times a second.
    void note_ended();
    /// The agent's process is sampled no more.
    void forget(pid_t pid);
    /// To be called about once a second.
    void keep_ticking();
    /// Looks whether the kernel's limit on ticks has fallen below what has been armed; also to be
    /// called at the end.
    void look_at_rate_limit();
    /// The lowest limit of that kind that was seen, in ticks a second; 0: none.
    [[nodiscard]] std::int64_t lowered_rate() const { return lowered_rate_; }

    /// Threads that found no room in the kernel's table.
    [[nodiscard]] std::uint64_t threads_refused() const;
    /// Lines for -v: what the programs did and did not do.
    [[nodiscard]] std::vector<std::string> report() const;

  private:
    [[nodiscard]] bool is_insisted_on() const {
        return options_.engine == Engine::kBpf || options_.engine == Engine::kPerf;
    }
    tl::unexpected<std::string> refuse(const std::string& why);
    bool has_ended(pid_t pid, bool waits);
    void try_perf() const;
    Result<control::Armed> arm_bpf(pid_t pid, const control::Arm& request);
    Result<control::Armed> arm_perf(pid_t pid, const control::Arm& request);

    using Loaded = tl::expected<std::unique_ptr<BpfSession>, Unavailable>;

    const Options& options_;
    std::int64_t least_interval_ns_ = 0;  // of all that has been armed; 0: nothing
    std::int64_t lowered_rate_ = 0;
    std::uint64_t refusals_ = 0;
    std::int64_t patience_ns_ = 2'000'000'000;  // what is left of it for has_ended()
    // Filled by settle().
    mutable std::future<Loaded> loading_;
    mutable std::unique_ptr<BpfSession> bpf_;
    mutable std::string why_no_bpf_;
    mutable std::optional<PerfTicks> perf_;
    mutable std::string why_no_perf_;
};

}  // namespace echion::cli
