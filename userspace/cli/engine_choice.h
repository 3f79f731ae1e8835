#pragma once

#include <sys/types.h>

#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tl/expected.hpp>
#include <utility>
#include <vector>

#include "cli/agent_process.h"
#include "cli/options.h"
#include "control/control.h"
#include "engine/engines.h"
#include "model/cpu_ledger.h"

namespace echion::cli {

/// The engine of a run: the best that this machine and this user's rights allow, of those that the
/// options do. Without one, agents keep time by themselves. `why_not_better()` says what stands in
/// the way of the better ones.
///
/// Engines are opened in a thread of its own until somebody asks for anything here, as that takes a
/// while: make this object first.
class EngineChoice {
  public:
    /// Begins to open engines.
    explicit EngineChoice(const Options& options);
    EngineChoice(const EngineChoice&) = delete;
    EngineChoice& operator=(const EngineChoice&) = delete;

    /// Waits until that is over, as all the others do.
    void settle() const;
    /// Whether the kernel makes the ticks, for some process.
    [[nodiscard]] bool has_engine() const {
        settle();
        return engine_ != nullptr;
    }
    /// HostEngine::needed_capabilities().
    [[nodiscard]] std::span<const engine::Capability> needed_capabilities() const {
        return has_engine() ? engine_->needed_capabilities()
                            : std::span<const engine::Capability>();
    }
    /// What makes the ticks of processes that are armed.
    [[nodiscard]] const engine::EngineKind& kind() const {
        return has_engine() ? *kind_ : engine::own_clock();
    }
    /// control::ConfigureFlag of the agent in that process.
    [[nodiscard]] std::uint32_t agent_flags(const AgentProcess& process) const {
        return has_engine() && process.is_pinned() ? engine_->agent_flags(process.pid()) : 0U;
    }
    /// In one line, without an end: why the ticks are not a better engine's. Empty where they are,
    /// and where the options ask for that.
    [[nodiscard]] std::string why_not_better() const;
    /// One line, without an end: why the engine that the options insist on cannot be had, at all or
    /// for the process `target`, if there is one already. Empty if it can, as far as is known
    /// before it is tried, or if they insist on none: then this does not wait.
    [[nodiscard]] std::string why_refused(std::optional<pid_t> target) const;

    /// Puts an agent's process under watch: what its agent gets for it. Where that fails the agent
    /// gets nothing and does without, which is told to the user; if the options insist on the
    /// engine it is an error, in one line.
    tl::expected<std::vector<engine::ExtraFd>, std::string> watch(const AgentProcess& process);
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
    /// HostEngine::look_at_rate_limit(), at the end.
    void look_at_rate_limit();
    /// HostEngine::lowered_rate().
    [[nodiscard]] std::optional<engine::LoweredRate> lowered_rate() const {
        return has_engine() ? engine_->lowered_rate() : std::nullopt;
    }

    /// Threads that found no room in the kernel's table.
    [[nodiscard]] std::uint64_t threads_refused() const {
        return has_engine() ? engine_->threads_refused() : 0;
    }
    /// Lines for -v: what the engine did and did not do.
    [[nodiscard]] std::vector<std::string> report() const;

  private:
    /// An engine that is not to be had, and why.
    struct Missing {
        const engine::EngineKind* kind;
        std::string why;
    };
    struct Opened {
        const engine::EngineKind* kind = nullptr;
        std::unique_ptr<engine::HostEngine> engine;
        std::vector<Missing> missing;
    };

    [[nodiscard]] Opened open_best() const;
    [[nodiscard]] bool is_insisted_on() const;
    tl::unexpected<std::string> refuse(const std::string& why);
    bool has_ended(pid_t pid, bool waits);

    const Options& options_;
    std::vector<const engine::EngineKind*> wanted_;  // the best first
    std::uint64_t refusals_ = 0;
    std::int64_t patience_ns_ = 2'000'000'000;  // what is left of it for has_ended()
    // Filled by settle().
    mutable std::future<Opened> opening_;
    mutable std::unique_ptr<engine::HostEngine> engine_;
    mutable const engine::EngineKind* kind_ = nullptr;
    mutable std::vector<Missing> missing_;
};

}  // namespace echion::cli
