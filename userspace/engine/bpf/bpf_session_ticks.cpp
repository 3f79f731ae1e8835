// The ticks of the targets: what an agent asks for is checked, the programs are configured, and the
// perf events that make the ticks are kept running.

#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>

#include <vector>

#include "control/control.h"
#include "engine/bpf/bpf_session_impl.h"
#include "engine/perf/perf_event.h"

namespace echion::engine {
namespace {

// Signals that may wait for the sampler at a time. More than one, so that a tick during its work is
// followed up; few, so that a stopped target does not use up its user's quota of queued signals
// (RLIMIT_SIGPENDING).
constexpr std::uint32_t kMaxPendingTicks = 8;

// How long snapshots may gather before the sampler is woken for them. At the usual interval each
// tick wakes it; at 100 us one in ten does, which halves what a tick costs the target.
constexpr std::uint64_t kSignalGapNs = 900'000;

static_assert(sizeof(control::Arm::snapshot_layout) == sizeof(echion_snapshot_layout));

std::vector<ThreadOrigin> find_origins(const CpuStateMap& states) {
    std::vector<ThreadOrigin> origins;
    for (std::uint32_t slot = 0; slot < states.used(); ++slot) {
        const auto state = states.read(slot);
        if (state && !state->ended) {
            origins.push_back({static_cast<pid_t>(state->session_tid),
                               static_cast<pid_t>(state->creator_session_tid), state->started_ns});
        }
    }
    return origins;
}

}  // namespace

bool is_valid(const echion_snapshot_layout& layout) {
    const std::uint32_t frame_bytes = layout.frame_bytes;
    const auto fits = [frame_bytes](std::uint32_t offset, std::uint32_t size_bytes) {
        return offset + size_bytes <= frame_bytes;
    };
    const bool narrow = layout.pointer_mask == 0xffffffffU;
    const std::uint32_t pointer_bytes = narrow ? 4 : 8;
    const std::uint32_t instruction_bytes = layout.instruction_shift == 32 ? 4 : 8;
    const auto in_state = [&](std::uint32_t offset) {
        return offset + pointer_bytes <= layout.state_bytes;
    };
    const bool has_stack = layout.stack_chunk != ECHION_ABSENT;
    return (narrow || layout.pointer_mask == ~std::uint64_t{0}) &&
           layout.state_bytes <= ECHION_THREAD_STATE_BYTES && in_state(layout.head) &&
           (has_stack ? in_state(layout.stack_chunk) && in_state(layout.stack_top)
                      : layout.stack_top == ECHION_ABSENT) &&
           frame_bytes >= 16 && frame_bytes <= ECHION_FRAME_BYTES &&
           (layout.instruction_shift == 0 || layout.instruction_shift == 32) &&
           fits(layout.frame_previous, pointer_bytes) && fits(layout.frame_code, pointer_bytes) &&
           fits(layout.frame_instruction, instruction_bytes) && fits(layout.frame_owner, 1) &&
           fits(layout.frame_tlbc, sizeof(std::int32_t));
}

Result<std::uint32_t> BpfSession::Impl::find_or_enter(const echion_target_state& process,
                                                      std::uint32_t target_tid, Target target) {
    auto slot = states.find_slot(process.target_pid, target_tid, target);
    if (!slot && enter_threads(static_cast<pid_t>(process.pid))) {
        slot = states.find_slot(process.target_pid, target_tid, target);
    }
    return slot;
}

Result<TimerReport> BpfSession::start_timer(Target target, const TimerRequest& request) {
    const auto state = impl_->read_target(target);
    if (!state || state->kernel_pid == 0 || state->pid == 0) {
        return fail(ErrorKind::kSystem, "start the ticks: the target has ended", ESRCH);
    }
    if (request.signal < SIGRTMIN || request.signal > SIGRTMAX || request.interval_ns <= 0 ||
        (request.snapshot.thread_refs != 0 && !is_valid(request.snapshot))) {
        return fail(ErrorKind::kProtocol, "start the ticks: the agent's request is not valid");
    }
    const auto slot = impl_->find_or_enter(*state, request.sampler_tid, target);
    const auto sampler = slot ? impl_->states.read(*slot) : tl::unexpected(slot.error());
    if (!sampler) {
        return fail(ErrorKind::kProtocol,
                    "start the ticks: the sampler is not a thread of the target");
    }
    if (!may_signal(static_cast<pid_t>(state->pid))) {
        return fail(ErrorKind::kRefused, "start the ticks: the target is another user's", EPERM);
    }
    stop_timer(target);
    const bool snapshots = request.snapshot.thread_refs != 0 && snapshot_fd(target).has_value();
    echion_target_config config{};
    config.sampler_slot = *slot + 1;
    config.sampler_generation = sampler->generation;
    config.max_pending = kMaxPendingTicks;
    config.thread_ticks_signal = request.wall ? 0 : 1;
    config.signal_gap_ns = kSignalGapNs;
    if (snapshots) {
        config.snapshot = request.snapshot;
    }
    if (impl_->write_config(target, config) != 0) {
        return fail(ErrorKind::kSystem, "start the ticks: configure the programs", errno);
    }
    TickRequest ticks;
    ticks.pid = static_cast<pid_t>(state->pid);
    ticks.sampler_tid = static_cast<pid_t>(sampler->session_tid);
    ticks.signal = request.signal;
    ticks.interval_ns = perf::clamp_interval(request.interval_ns, perf::read_limits());
    ticks.wall = request.wall;
    ticks.follow_children = impl_->options.follow_children;
    ticks.thread_events = snapshots || !request.wall;
    ticks.target = target;
    ticks.thread_program_fd =
        bpf_program__fd(impl_->has_loop_helper ? impl_->skeleton->progs.on_thread_tick
                                               : impl_->skeleton->progs.on_thread_tick_unrolled);
    ticks.wall_program_fd =
        impl_->has_wall_program ? bpf_program__fd(impl_->skeleton->progs.on_wall_tick) : -1;
    auto timers = TickEvents::start(ticks, [&] { return find_origins(impl_->states); });
    if (!timers) {
        stop_timer(target);
        return tl::unexpected(timers.error());
    }
    // The signals go to whoever had the number then: the sampler, if it still lives.
    if (!impl_->lives({*slot, sampler->generation})) {
        stop_timer(target);
        return fail(ErrorKind::kSystem, "start the ticks: the sampler has ended", ESRCH);
    }
    const TimerReport report{ticks.interval_ns, snapshots, timers->thread_events(),
                             timers->threads_without_event()};
    impl_->timers.emplace(target, std::move(*timers));
    impl_->samplers[target] = {*slot, sampler->generation};
    impl_->accounts.leave_out(target, {*slot, sampler->generation});
    for (const std::uint32_t tid : request.helper_tids) {
        impl_->accounts.leave_out_so_far(target, tid);
    }
    if (const auto io_slot = impl_->find_or_enter(*state, request.io_tid, target)) {
        if (const auto io_thread = impl_->states.read(*io_slot)) {
            impl_->accounts.leave_out(target, {*io_slot, io_thread->generation});
        }
    }
    return report;
}

void BpfSession::stop_timer(Target target) {
    impl_->timers.erase(target);
    // Threads are entered and left by the kernel; only what the agent asked for is undone. A tick
    // that is running now may still read the target's memory, never longer than a microsecond.
    (void)impl_->write_config(target, {});
}

Status BpfSession::keep_ticking() {
    Status result;
    std::vector<Target> orphans;
    for (auto& [target, timers] : impl_->timers) {
        // An event that is opened anew signals whoever has the number of the sampler then.
        const auto sampler = impl_->samplers.find(target);
        bool lives = sampler != impl_->samplers.end() && impl_->lives(sampler->second);
        if (lives) {
            if (auto status = timers.keep_ticking(); !status) {
                result = status;
            }
            lives = impl_->lives(sampler->second);
        }
        if (!lives) {
            orphans.push_back(target);
        }
    }
    for (const Target target : orphans) {
        stop_timer(target);
    }
    return result;
}

}  // namespace echion::engine
