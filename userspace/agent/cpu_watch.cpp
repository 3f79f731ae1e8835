#include "agent/cpu_watch.h"

#include <unistd.h>

#include <algorithm>

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
    const cpython::ThreadStateLayout& state = layout.thread_state;
    const bool has_cframe = has(state.cframe);
    const bool has_data_stack = has(state.datastack_chunk) && has(state.datastack_top);
    const Offset head = has_cframe ? state.cframe : state.frame;
    // The part of the thread state that is copied: from the first of these fields to the last.
    Offset from = head;
    Offset to = head;
    if (has_data_stack) {
        from = std::min({head, state.datastack_chunk, state.datastack_top});
        to = std::max({head, state.datastack_chunk, state.datastack_top});
    }
    constexpr auto kWord = static_cast<Offset>(sizeof(void*));
    if (to + kWord - from > static_cast<Offset>(ECHION_THREAD_STATE_BYTES)) {
        return result;
    }
    const auto absent = std::uint16_t{ECHION_ABSENT};
    result.thread_refs = refs_.address();
    result.pointer_mask = static_cast<std::uintptr_t>(-1);
    result.state_from = to_u16(from);
    result.state_bytes = to_u16(to + kWord - from);
    result.head = to_u16(head - from);
    result.stack_chunk = has_data_stack ? to_u16(state.datastack_chunk - from) : absent;
    result.stack_top = has_data_stack ? to_u16(state.datastack_top - from) : absent;
    result.cframe_head = has_cframe ? to_u16(layout.cframe.current_frame) : absent;
    result.chunk_data = has_data_stack ? to_u16(layout.stack_chunk.data) : std::uint16_t{0};
    result.frame_bytes = to_u16(layout.frame.size);
    result.frame_previous = to_u16(layout.frame.previous);
    result.frame_code = to_u16(layout.frame.code);
    result.frame_instruction = to_u16(layout.frame.instruction);
    result.frame_owner = has(layout.frame.owner) ? to_u16(layout.frame.owner) : std::uint16_t{0};
    result.owner_without_code = has(layout.frame.owner) && layout.frame.owner_cstack >= 0
                                    ? static_cast<std::uint16_t>(layout.frame.owner_cstack)
                                    : absent;
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
