#include "engine/perf/perf_engine.h"

#include <utility>

#include "engine/perf/perf_ticks.h"
#include "engine/perf/rate_limit.h"

namespace echion::engine {
namespace {

class PerfEngine final : public HostEngine {
  public:
    explicit PerfEngine(PerfTicks ticks) : ticks_(std::move(ticks)) {}

    [[nodiscard]] std::string why_not(pid_t pid) const override {
        const auto why = ticks_.why_not(pid);
        return why ? why->text() : "";
    }
    [[nodiscard]] std::uint32_t agent_flags(pid_t pid) const override {
        return ticks_.why_not(pid) ? 0U : control::kPerfTicks;
    }
    [[nodiscard]] std::span<const Capability> needed_capabilities() const override {
        static constexpr Capability kNeeded[] = {Capability::kPerfmon};
        return kNeeded;
    }
    tl::expected<std::vector<ExtraFd>, Refusal> watch(pid_t) override {
        return std::vector<ExtraFd>();
    }
    tl::expected<TickReport, Refusal> arm(pid_t pid, const control::Arm& request, bool,
                                          std::int64_t interval_ns) override {
        const auto started_ns = ticks_.start(pid, request.sampler_tid, request.signal, interval_ns);
        if (!started_ns) {
            return tl::unexpected(explain_refusal(pid, started_ns.error()));
        }
        TickReport report{*started_ns, false, {}};
        rate_limit_.note_started(report, interval_ns);
        return report;
    }
    void forget(pid_t pid) override { ticks_.stop(pid); }
    void look_at_rate_limit() override { rate_limit_.look(); }
    [[nodiscard]] std::optional<LoweredRate> lowered_rate() const override {
        return rate_limit_.lowered();
    }

  private:
    PerfTicks ticks_;
    RateLimit rate_limit_;
};

}  // namespace

tl::expected<std::unique_ptr<HostEngine>, Unavailable> open_perf_engine() {
    auto opened = PerfTicks::open();
    if (!opened) {
        return tl::unexpected(opened.error());
    }
    return std::make_unique<PerfEngine>(std::move(*opened));
}

}  // namespace echion::engine
