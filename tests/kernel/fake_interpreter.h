#pragma once

#include <cstddef>
#include <cstdint>

#include "bpf/abi.h"

namespace echion::test {

/// Frames and thread state of an imaginary interpreter, as the program is told to read them. Its
/// frames lie in a data stack, one behind the other; the program may be told so, or not.
struct FakeFrame {
    std::uint64_t previous;
    std::uint64_t code;
    std::int32_t instruction;
    std::uint8_t owner;
    std::uint8_t padding[3];
    std::uint64_t locals[12];
};
constexpr std::uint16_t kFrameBytes = offsetof(FakeFrame, locals);
struct FakeChunk {
    std::uint64_t header[3];
    FakeFrame frames[256];
};
struct FakeThreadState {
    std::uint64_t unused[3];
    std::uint64_t cframe;
    FakeChunk* chunk;
    FakeFrame* top;
};

inline echion_snapshot_layout fake_layout(std::uint64_t thread_refs, bool in_data_stack = false) {
    echion_snapshot_layout layout{};
    layout.thread_refs = thread_refs;
    layout.pointer_mask = ~0ULL;
    layout.state_from = offsetof(FakeThreadState, cframe);
    layout.state_bytes = sizeof(FakeThreadState) - layout.state_from;
    layout.head = 0;
    layout.stack_chunk = in_data_stack ? 8 : ECHION_ABSENT;
    layout.stack_top = in_data_stack ? 16 : ECHION_ABSENT;
    layout.chunk_data = offsetof(FakeChunk, frames);
    layout.cframe_head = 8;
    layout.frame_bytes = kFrameBytes;
    layout.frame_previous = offsetof(FakeFrame, previous);
    layout.frame_code = offsetof(FakeFrame, code);
    layout.frame_instruction = offsetof(FakeFrame, instruction);
    layout.frame_owner = offsetof(FakeFrame, owner);
    layout.owner_without_code = 3;
    layout.instruction_shift = 32;
    return layout;
}

}  // namespace echion::test
