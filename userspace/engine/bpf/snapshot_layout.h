#pragma once

#include <algorithm>
#include <cstdint>

#include "bpf/abi.h"
#include "cpython/layout.h"

namespace echion::engine {

/// What the tick's program has to know of this version of CPython. `thread_refs`: address of this
/// process's ThreadRefTable.
inline echion_snapshot_layout make_snapshot_layout(const cpython::Layout& layout,
                                                   std::uint64_t thread_refs) {
    const cpython::FrameLayout& frame = layout.frame;
    const bool by_cframe = cpython::has(layout.thread_state.cframe);
    const auto u16 = [](cpython::Offset offset) {
        return static_cast<std::uint16_t>(cpython::has(offset) ? offset : ECHION_ABSENT);
    };
    echion_snapshot_layout result{};
    result.thread_refs = thread_refs;
    result.pointer_mask = layout.pointer_bytes == 4 ? 0xffffffffULL : ~0ULL;
    // One copy brings the head and, where there is a data stack, where that is.
    const cpython::ThreadStateLayout& state = layout.thread_state;
    const cpython::Offset head = by_cframe ? state.cframe : state.frame;
    const bool has_stack = cpython::has(state.datastack_chunk);
    cpython::Offset from = head;
    cpython::Offset last = head;
    if (has_stack) {
        from = std::min({head, state.datastack_chunk, state.datastack_top});
        last = std::max({head, state.datastack_chunk, state.datastack_top});
    }
    result.state_from = u16(from);
    result.state_bytes = u16(last - from + layout.pointer_bytes);
    result.head = u16(head - from);
    result.stack_chunk = has_stack ? u16(state.datastack_chunk - from) : ECHION_ABSENT;
    result.stack_top = has_stack ? u16(state.datastack_top - from) : ECHION_ABSENT;
    result.chunk_data = has_stack ? u16(layout.stack_chunk.data) : std::uint16_t{0};
    result.cframe_head = by_cframe ? u16(layout.cframe.current_frame) : ECHION_ABSENT;
    result.frame_bytes = u16(frame.size);
    result.frame_previous = u16(frame.previous);
    result.frame_code = u16(frame.code);
    result.frame_instruction = u16(frame.instruction);
    result.frame_owner = cpython::has(frame.owner) ? u16(frame.owner) : std::uint16_t{0};
    result.owner_without_code = u16(frame.owner_without_code);
    const bool is_pointer = frame.instruction_kind == cpython::InstructionKind::kCodePointer;
    result.instruction_shift = is_pointer && layout.pointer_bytes == 8 ? 0 : 32;
    result.frame_tlbc = cpython::has(frame.tlbc_index) ? u16(frame.tlbc_index) : std::uint16_t{0};
    result.code_tag = frame.code_tag;
    result.code_size = u16(layout.object.ob_size);
    result.code_tlbc = u16(layout.code.tlbc);
    result.code_adaptive = u16(layout.code.code_adaptive);
    result.tlbc_entries = u16(layout.code.tlbc_entries);
    return result;
}

}  // namespace echion::engine
