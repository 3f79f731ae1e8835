#include "engine/bpf/bpf_engine.h"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <utility>

#include "engine/bpf/bpf_session.h"
#include "engine/bpf/kernel_clock.h"
#include "engine/perf/rate_limit.h"
#include "engine/perf/tick_events.h"

namespace echion::engine {
namespace {

/// What the places of BpfSession::counters() count, in the order of enum echion_counter.
constexpr std::array<const char*, ECHION_COUNTERS> kCounterNames = {
    "ticks",         "own ticks",       "foreign ticks",    "signals",
    "sampler busy",  "snapshots",       "snapshot unknown", "snapshot fault",
    "snapshot full", "threads refused", "targets refused",
};

class BpfEngine final : public HostEngine {
  public:
    explicit BpfEngine(std::unique_ptr<BpfSession> session) : session_(std::move(session)) {}

    [[nodiscard]] std::string why_not(pid_t pid) const override {
        if (!may_signal(pid)) {
            return explain_signal(pid).text();
        }
        const auto ahead_ns = find_clock_ahead_ns(pid);
        return ahead_ns ? "" : ahead_ns.error();
    }
    [[nodiscard]] std::span<const Capability> needed_capabilities() const override {
        static constexpr Capability kNeeded[] = {Capability::kBpf, Capability::kPerfmon};
        return kNeeded;
    }
    tl::expected<std::vector<ExtraFd>, Refusal> watch(pid_t pid) override;
    tl::expected<TickReport, Refusal> arm(pid_t pid, const control::Arm& request, bool wall,
                                          std::int64_t interval_ns) override;
    void forget(pid_t pid) override {
        if (const auto target = session_->find_target(pid)) {
            session_->remove_target(*target);
        }
    }
    std::vector<model::CountedCpu> count_cpu(pid_t pid, bool with_living) override;
    void note_ended() override { session_->note_ended(); }
    void keep_ticking() override { (void)session_->keep_ticking(); }
    void look_at_rate_limit() override { rate_limit_.look(); }
    [[nodiscard]] std::optional<LoweredRate> lowered_rate() const override {
        return rate_limit_.lowered();
    }
    [[nodiscard]] std::uint64_t threads_refused() const override {
        return session_->threads_refused();
    }
    [[nodiscard]] std::vector<std::pair<std::string, std::uint64_t>> figures() const override;

  private:
    std::unique_ptr<BpfSession> session_;
    RateLimit rate_limit_;
    // Targets without a ring for snapshots, and why the last one has none.
    std::uint64_t without_ring_ = 0;
    Error why_without_ring_{ErrorKind::kRefused};
};

tl::expected<std::vector<ExtraFd>, Refusal> BpfEngine::watch(pid_t pid) {
    const auto ahead_ns = find_clock_ahead_ns(pid);
    if (!ahead_ns) {
        return tl::unexpected(Refusal{ahead_ns.error()});
    }
    const auto target = session_->add_target(pid);
    if (!target) {
        return tl::unexpected(Refusal{"", target.error()});
    }
    std::vector<ExtraFd> fds = {
        {control::FdKind::kBpfState, session_->state_fd(), *target, *ahead_ns}};
    if (const auto ring = session_->snapshot_fd(*target)) {
        fds.push_back({control::FdKind::kBpfSnapshots, *ring});
    } else {
        ++without_ring_;
        why_without_ring_ = ring.error();
    }
    return fds;
}

tl::expected<TickReport, Refusal> BpfEngine::arm(pid_t pid, const control::Arm& request, bool wall,
                                                 std::int64_t interval_ns) {
    const auto target = session_->find_target(pid);
    if (!target) {
        return tl::unexpected(Refusal{"", {ErrorKind::kSystem, ESRCH, "start the ticks"}});
    }
    TimerRequest timer;
    timer.wall = wall;
    timer.interval_ns = interval_ns;
    timer.sampler_tid = request.sampler_tid;
    timer.io_tid = request.io_tid;
    std::copy(std::begin(request.helper_tids), std::end(request.helper_tids),
              timer.helper_tids.begin());
    timer.signal = request.signal;
    static_assert(sizeof(timer.snapshot) == sizeof(request.snapshot_layout));
    std::memcpy(&timer.snapshot, request.snapshot_layout, sizeof(timer.snapshot));
    const auto started = session_->start_timer(*target, timer);
    if (!started) {
        return tl::unexpected(explain_refusal(pid, started.error()));
    }
    TickReport report{started->interval_ns, started->snapshots, {}};
    rate_limit_.note_started(report, interval_ns);
    if (started->threads_without_event != 0) {
        report.shortfalls.push_back("the stacks of " +
                                    std::to_string(started->threads_without_event) +
                                    " threads are read from outside: too many open files");
    }
    return report;
}

std::vector<model::CountedCpu> BpfEngine::count_cpu(pid_t pid, bool with_living) {
    std::vector<model::CountedCpu> counted;
    if (const auto target = session_->find_target(pid)) {
        for (const ThreadCpu& one : session_->count_cpu(*target, with_living)) {
            counted.push_back({one.target_tid, one.cpu_ns, one.runnable_ns, one.ended_ns});
        }
    }
    return counted;
}

std::vector<std::pair<std::string, std::uint64_t>> BpfEngine::figures() const {
    std::vector<std::pair<std::string, std::uint64_t>> figures;
    const auto counters = session_->counters();
    for (std::size_t i = 0; i < counters.size(); ++i) {
        figures.emplace_back(kCounterNames[i], counters[i]);
    }
    figures.emplace_back("threads_missed", session_->threads_missed());
    if (without_ring_ != 0) {
        const Error& why = why_without_ring_;
        figures.emplace_back(
            "without snapshots (" + Unavailable{why.what, why.system_errno, "", ""}.text() + ")",
            without_ring_);
    }
    std::erase_if(figures, [](const auto& one) { return one.second == 0; });
    return figures;
}

}  // namespace

tl::expected<std::unique_ptr<HostEngine>, Unavailable> open_bpf_engine() {
    const auto ahead_ns = find_clock_ahead_ns(getpid());
    if (!ahead_ns) {
        return tl::unexpected(
            Unavailable{"keep the kernel's time", 0, "of echion itself: " + ahead_ns.error(), ""});
    }
    auto session = BpfSession::open({.clock_ahead_ns = *ahead_ns});
    if (!session) {
        return tl::unexpected(session.error());
    }
    return std::make_unique<BpfEngine>(std::move(*session));
}

}  // namespace echion::engine
