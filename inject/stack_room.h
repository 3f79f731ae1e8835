#pragma once

#include <cstddef>
#include <vector>

#include "base/error.h"
#include "inject/arch.h"
#include "inject/map_lookup.h"
#include "memory/address.h"

namespace echion::inject {

/// What bounds the stack that a stopped thread is on.
struct StackBounds {
    /// In the map range of the first thread's stack.
    Address in_main_stack;
    bool is_main_thread = false;
    /// Those that were in force when the signals came whose handlers the thread is in.
    std::vector<arch::AlternateStack> alternate_stacks;
};

/// Checks that `size_bytes` bytes below the stack pointer are a free part of the stack that the C
/// library or the kernel made for this thread. Below any other stack (one for signals, a
/// coroutine's), or at a stack's end, there may be the program's data. kRefused with the reason.
Status check_stack_room(MapLookup& map, const arch::Registers& registers, const StackBounds& bounds,
                        std::size_t size_bytes);

}  // namespace echion::inject
