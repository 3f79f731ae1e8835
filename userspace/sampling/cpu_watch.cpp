#include "sampling/cpu_watch.h"

#include <unistd.h>

#include <algorithm>

#include "base/clock.h"
#include "engine/bpf/snapshot_layout.h"

namespace echion::sampling {
namespace {

// How long the copies of a thread's stacks are withheld: the first time, and at most. It doubles
// while the last time was over for less than the latter. Each useless copy misplaces at most the
// time that the kernel lets one wait (kSignalGapNs) and a tick.
constexpr std::int64_t kFirstWithheldNs = 10'000'000;
constexpr std::int64_t kLongestWithheldNs = kNanosPerSecond;

}  // namespace

Status CpuWatch::open(int state_fd, std::uint32_t target, std::int64_t clock_ahead_ns,
                      int snapshots_fd, const ProcessFacts& facts) {
    helper_tids_ = facts.helper_tids;
    own_tids_ = {facts.sampler_tid, facts.io_tid};
    opened_ns_ = static_cast<std::uint64_t>(monotonic_ns());
    pid_ = static_cast<std::uint32_t>(getpid());
    target_ = target;
    auto states = engine::CpuStateMap::open(state_fd, clock_ahead_ns);
    if (!states) {
        return tl::unexpected(states.error());
    }
    states_ = std::move(*states);
    auto stamps = FixedArray<engine::CpuStateMap::Stamp>::make(states_.capacity());
    auto owners = FixedArray<TrackedThread*>::make(states_.capacity());
    if (!stamps || !owners) {
        return fail(ErrorKind::kNoSpace, "reserve memory for the threads' CPU state");
    }
    stamps_ = std::move(*stamps);
    owners_ = std::move(*owners);
    if (const auto slot = states_.find_slot(pid_, facts.sampler_tid, target_)) {
        own_slot_ = *slot;
    }
    if (const auto slot = states_.find_slot(pid_, facts.io_tid, target_)) {
        io_slot_ = *slot;
    }
    if (const auto slot = states_.find_slot(pid_, pid_, target_)) {
        const auto main_thread = states_.read(*slot);
        program_ns_ = main_thread ? main_thread->program_ns : 0;
    }
    if (snapshots_fd >= 0) {
        auto ring =
            engine::SnapshotRing::open(snapshots_fd, states_.snapshot_ring_bytes(), clock_ahead_ns);
        auto refs = engine::ThreadRefTable::make(states_.capacity());
        if (ring && refs) {
            ring_ = std::move(*ring);
            refs_ = std::move(*refs);
            has_snapshots_ = true;
        }
    }
    is_open_ = true;
    return facts.is_late ? note_starts() : Status();
}

/// An earlier session may have had the process under watch.
Status CpuWatch::note_starts() {
    auto starts = FixedArray<Start>::make(states_.capacity());
    if (!starts) {
        is_open_ = false;
        return fail(ErrorKind::kNoSpace, "reserve memory for the threads' CPU state");
    }
    starts_ = std::move(*starts);
    for (std::uint32_t slot = 0; slot < states_.used() && slot < starts_.capacity(); ++slot) {
        if (const auto state = read_own(slot)) {
            starts_[slot] = {state->generation,
                             state->cpu_ns_at(static_cast<std::uint64_t>(monotonic_ns()))};
        }
    }
    return {};
}

std::int64_t CpuWatch::first_cpu_ns(std::uint32_t slot, const engine::CpuState& state) const {
    const bool has_start =
        slot < starts_.capacity() && starts_[slot].generation == state.generation;
    return static_cast<std::int64_t>(
        std::max(state.first_cpu_ns(), has_start ? starts_[slot].cpu_ns : 0));
}

echion_snapshot_layout CpuWatch::snapshot_layout(const cpython::Layout& layout) const {
    return has_snapshots_ ? engine::make_snapshot_layout(layout, refs_.address())
                          : echion_snapshot_layout{};
}

Result<engine::CpuState> CpuWatch::read_own(std::uint32_t slot) const {
    auto state = states_.read(slot);
    if (state && (state->pid != pid_ || state->target != target_)) {
        return fail(ErrorKind::kInvalid, "a slot of another process");
    }
    if (state && state->started_ns < program_ns_ && state->program_ns != program_ns_) {
        return fail(ErrorKind::kInvalid, "a slot of the program before this one");
    }
    // The kernel may have had no memory for one of them when it began, and be told of it later.
    if (state && !state->ended && state->tid != 0 &&
        std::find(own_tids_.begin(), own_tids_.end(), state->tid) != own_tids_.end()) {
        return fail(ErrorKind::kInvalid, "a slot of the sampler's, or of the agent's other thread");
    }
    // A number that is another thread's by now was given to that one later.
    if (state && state->started_ns < opened_ns_ && state->tid != 0 &&
        std::find(helper_tids_.begin(), helper_tids_.end(), state->tid) != helper_tids_.end()) {
        return fail(ErrorKind::kInvalid, "a slot of a thread of the agent's");
    }
    return state;
}

void CpuWatch::want_snapshots(bool wanted) {
    if (!has_snapshots_ || wanted == wants_snapshots_) {
        return;
    }
    wants_snapshots_ = wanted;
    for (std::uint32_t slot = 0; slot < owners_.capacity(); ++slot) {
        if (owners_[slot] != nullptr) {
            refs_.clear(slot);
            offer_snapshots(*owners_[slot]);
        }
    }
}

void CpuWatch::offer_snapshots(const TrackedThread& thread) {
    if (has_snapshots_ && wants_snapshots_ && thread.has_state() && !thread.is_without_snapshots) {
        refs_.set(thread.slot, thread.slot_generation, thread.state.value());
    }
}

void CpuWatch::withhold_snapshots(TrackedThread& thread, std::int64_t now_ns) {
    if (thread.is_without_snapshots) {
        return;  // the copy was in the ring by then
    }
    const bool is_again =
        thread.withheld_ns != 0 && now_ns - thread.withheld_until_ns < kLongestWithheldNs;
    thread.withheld_ns =
        is_again ? std::min(2 * thread.withheld_ns, kLongestWithheldNs) : kFirstWithheldNs;
    thread.withheld_until_ns = now_ns + thread.withheld_ns;
    thread.is_without_snapshots = true;
    refs_.clear(thread.slot);
}

void CpuWatch::end_withholding(TrackedThread& thread, std::int64_t now_ns) {
    if (thread.is_without_snapshots && now_ns >= thread.withheld_until_ns) {
        thread.is_without_snapshots = false;
        offer_snapshots(thread);
    }
}

void CpuWatch::attach(TrackedThread& thread) {
    if (!is_open_ || thread.native_id == 0) {
        return;
    }
    const auto slot = states_.find_slot(pid_, thread.native_id, target_);
    const auto state =
        slot ? read_own(*slot) : Result<engine::CpuState>(fail(ErrorKind::kInvalid, "no slot"));
    // Nobody would say of a second state of the same number that it has run.
    const TrackedThread* owner = state ? owners_[*slot] : nullptr;
    if (!state || (owner != nullptr && owner != &thread && owner->has_state())) {
        return;
    }
    thread.slot = *slot;
    thread.slot_generation = state->generation;
    thread.cpu_ns = std::max(thread.cpu_ns, first_cpu_ns(*slot, *state));
    thread.has_run = true;
    owners_[*slot] = &thread;
    offer_snapshots(thread);
}

void CpuWatch::detach(TrackedThread& thread) {
    if (thread.slot == TrackedThread::kNoSlot) {
        return;
    }
    if (owners_[thread.slot] == &thread) {
        owners_[thread.slot] = nullptr;
        if (has_snapshots_) {
            refs_.clear(thread.slot);
        }
    }
    thread.slot = TrackedThread::kNoSlot;
}

void CpuWatch::hand_over(TrackedThread& from, TrackedThread& to) {
    if (from.slot == TrackedThread::kNoSlot) {
        return;
    }
    to.slot = from.slot;
    to.slot_generation = from.slot_generation;
    to.is_on_cpu = from.is_on_cpu;
    to.has_run = true;  // since its own stack was last read
    owners_[to.slot] = &to;
    offer_snapshots(to);
    from.slot = TrackedThread::kNoSlot;
}

}  // namespace echion::sampling
