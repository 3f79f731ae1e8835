#pragma once

#include <sys/types.h>

#include <future>
#include <memory>
#include <optional>
#include <string>
#include <vector>

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
    /// Whether perf events alone tick for a process, by trying.
    [[nodiscard]] bool has_perf_ticks(pid_t pid) const;
    /// What makes the ticks of a process, for the profile's header.
    [[nodiscard]] const char* engine(pid_t pid) const {
        return is_available() ? "bpf" : has_perf_ticks(pid) ? "perf" : "nanosleep";
    }
    /// One line: what stands in the way of the engine that was wanted, if no option does; else
    /// empty.
    [[nodiscard]] std::string why_not() const;
    /// Whether the options insist on an engine that is not to be had. Waits only if they insist on
    /// one.
    [[nodiscard]] bool is_refused() const;

    /// Puts an agent's process under watch: what its agent gets for it. Nothing on failure, which
    /// is told to the user: that agent then does without.
    std::vector<ExtraFd> watch(pid_t pid);
    /// Starts the ticks for an agent that is ready for them. The request is not trusted.
    control::Armed arm(pid_t pid, const control::Arm& request);
    /// CPU time of the threads of an agent's process since watch(), its sampler aside; of those
    /// that ended more than a second ago it may be gone. Nothing without the kernel's ticks.
    [[nodiscard]] std::vector<model::CountedCpu> count_cpu(pid_t pid) const;
    /// The agent's process is sampled no more.
    void forget(pid_t pid);
    /// To be called about once a second.
    void keep_ticking();

    /// Threads that found no room in the kernel's table.
    [[nodiscard]] std::uint64_t threads_refused() const;
    /// Lines for -v: what the programs did and did not do.
    [[nodiscard]] std::vector<std::string> report() const;

  private:
    void try_perf() const;
    void arm_perf(pid_t pid, const control::Arm& request, control::Armed& answer);

    using Loaded = tl::expected<std::unique_ptr<BpfSession>, Unavailable>;

    const Options& options_;
    // Filled by settle().
    mutable std::future<Loaded> loading_;
    mutable std::unique_ptr<BpfSession> bpf_;
    mutable std::string why_no_bpf_;
    mutable std::optional<PerfTicks> perf_;
    mutable std::string why_no_perf_;
};

}  // namespace echion::cli
