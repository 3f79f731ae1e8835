#include "engine/perf/perf_engine.h"

#include <utility>

#include "engine/perf/perf_ticks.h"

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
    [[nodiscard]] bool needs_bpf() const override { return false; }
    tl::expected<std::vector<ExtraFd>, Refusal> watch(pid_t) override {
        return std::vector<ExtraFd>();
    }
    Result<TickReport> arm(pid_t pid, const control::Arm& request, bool,
                           std::int64_t interval_ns) override {
        const auto started = ticks_.start(pid, request.sampler_tid, request.signal, interval_ns);
        if (!started) {
            return tl::unexpected(started.error());
        }
        return TickReport{started->interval_ns, false, started->threads_without_event};
    }
    void forget(pid_t pid) override { ticks_.stop(pid); }

  private:
    PerfTicks ticks_;
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
