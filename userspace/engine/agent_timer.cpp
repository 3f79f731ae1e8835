#include "engine/agent_timer.h"

#include <algorithm>
#include <iterator>
#include <new>

#include "engine/bpf/bpf_timer.h"
#include "engine/clock/clock_timer.h"
#include "engine/perf/perf_timer.h"

namespace echion::engine {

struct AgentTimerKind {
    bool (*is_offered)(const TickOffer& offer);
    bool needs_arming;  // only the last row does not: what is not armed gives way to own_clock()
    TickTimer* (*make)(std::byte* room, const TimerSettings& settings);
};

namespace {

template <typename Timer, typename... Arguments>
TickTimer* make_in(std::byte* room, Arguments... arguments) {
    static_assert(sizeof(Timer) <= AgentTimer::kRoomBytes);
    static_assert(alignof(Timer) <= alignof(std::max_align_t));
    return new (room) Timer(arguments...);
}

/// One row for each timer that there is, the best first; the last is the sampler's own clock.
constexpr AgentTimerKind kAgentTimers[] = {
    {[](const TickOffer& offer) { return offer.has_thread_table; }, true,
     [](std::byte* room, const TimerSettings& of) {
         return make_in<BpfTimer>(room, of.signal, of.interval_ns, !of.cpu_time, of.now_ns);
     }},
    {[](const TickOffer& offer) {
         return offer.cpu_time && (offer.flags & control::kPerfTicks) != 0;
     },
     true,
     [](std::byte* room, const TimerSettings& of) {
         return make_in<PerfTimer>(room, of.signal, of.interval_ns, of.now_ns);
     }},
    {[](const TickOffer&) { return true; }, false,
     [](std::byte* room, const TimerSettings& of) {
         return make_in<ClockTimer>(room, of.interval_ns, of.now_ns);
     }},
};
constexpr const AgentTimerKind& kOwnClock = kAgentTimers[std::size(kAgentTimers) - 1];

}  // namespace

AgentTimer::AgentTimer(const TickOffer& offer)
    : kind_(std::find_if(std::begin(kAgentTimers), std::end(kAgentTimers),
                         [&](const AgentTimerKind& kind) { return kind.is_offered(offer); })) {}

AgentTimer::~AgentTimer() {
    if (timer_ != nullptr) {
        timer_->~TickTimer();
    }
}

bool AgentTimer::needs_arming() const { return kind_->needs_arming; }

void AgentTimer::start(const TimerSettings& settings) { timer_ = kind_->make(room_, settings); }

void AgentTimer::start_clock(std::int64_t interval_ns, std::int64_t now_ns) {
    kind_ = &kOwnClock;
    start({.interval_ns = interval_ns, .now_ns = now_ns});
}

}  // namespace echion::engine
