#include "agent/cpu_watch.h"

#include <unistd.h>

namespace echion::agent {
namespace {

using cpython::has;
using cpython::Offset;

std::uint16_t to_u16(Offset offset) {
    return has(offset) ? static_cast<std::uint16_t>(offset) : std::uint16_t{ECHION_ABSENT};
}

}  // namespace

Status CpuWatch::open(int state_fd, int snapshots_fd, std::uint32_t sampler_tid) {
    pid_ = static_cast<std::uint32_t>(getpid());
    auto states = CpuStateMap::open(state_fd);
    if (!states) {
        return tl::unexpected(states.error());
    }
    states_ = std::move(*states);
    auto stamps = FixedArray<CpuStateMap::Stamp>::make(states_.capacity());
    auto owners = FixedArray<TrackedThread*>::make(states_.capacity());
    if (!stamps || !owners) {
        return fail(ErrorKind::kNoSpace, "reserve memory for the threads' CPU state");
    }
    stamps_ = std::move(*stamps);
    owners_ = std::move(*owners);
    if (const auto slot = states_.find_slot(pid_, sampler_tid)) {
        own_slot_ = *slot;
    }
    if (snapshots_fd >= 0) {
        auto ring = SnapshotRing::open(snapshots_fd, states_.snapshot_ring_bytes());
        auto refs = ThreadRefTable::make(states_.capacity());
        if (ring && refs) {
            ring_ = std::move(*ring);
            refs_ = std::move(*refs);
            has_snapshots_ = true;
        }
    }
    is_open_ = true;
    return {};
}

echion_snapshot_layout CpuWatch::make_snapshot_layout(const cpython::Layout& layout) const {
    echion_snapshot_layout result{};
    if (!has_snapshots_) {
        return result;
    }
    const bool has_cframe = has(layout.thread_state.cframe);
    result.thread_refs = refs_.address();
    result.pointer_mask = static_cast<std::uintptr_t>(-1);
    result.head = to_u16(has_cframe ? layout.thread_state.cframe : layout.thread_state.frame);
    result.cframe_head =
        has_cframe ? to_u16(layout.cframe.current_frame) : std::uint16_t{ECHION_ABSENT};
    result.frame_bytes = to_u16(layout.frame.size);
    result.frame_previous = to_u16(layout.frame.previous);
    result.frame_code = to_u16(layout.frame.code);
    result.frame_instruction = to_u16(layout.frame.instruction);
    result.frame_owner = has(layout.frame.owner) ? to_u16(layout.frame.owner) : std::uint16_t{0};
    result.owner_without_code = has(layout.frame.owner) && layout.frame.owner_cstack >= 0
                                    ? static_cast<std::uint16_t>(layout.frame.owner_cstack)
                                    : std::uint16_t{ECHION_ABSENT};
    const bool is_pointer = layout.frame.instruction_kind == cpython::InstructionKind::kCodePointer;
    result.instruction_shift = is_pointer && sizeof(void*) == 8 ? 0 : 32;
    return result;
}

Result<CpuState> CpuWatch::read_own(std::uint32_t slot) const {
    auto state = states_.read(slot);
    if (state && state->pid != pid_) {
        return fail(ErrorKind::kInvalid, "a slot of another process");
    }
    return state;
}

void CpuWatch::attach(TrackedThread& thread) {
    if (!is_open_ || thread.native_id == 0) {
        return;
    }
    const auto slot = states_.find_slot(pid_, thread.native_id);
    const auto state =
        slot ? states_.read(*slot) : Result<CpuState>(fail(ErrorKind::kInvalid, "no slot"));
    if (!state) {
        return;
    }
    thread.slot = *slot;
    thread.slot_generation = state->generation;
    thread.cpu_ns = static_cast<std::int64_t>(state->start_cpu_ns);
    thread.has_run = true;
    owners_[*slot] = &thread;
    if (has_snapshots_) {
        refs_.set(*slot, state->generation, thread.state.value());
    }
}

void CpuWatch::detach(TrackedThread& thread) {
    if (thread.slot == TrackedThread::kNoSlot) {
        return;
    }
    if (has_snapshots_) {
        refs_.clear(thread.slot);
    }
    owners_[thread.slot] = nullptr;
    thread.slot = TrackedThread::kNoSlot;
}

}  // namespace echion::agent
