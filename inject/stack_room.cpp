#include "inject/stack_room.h"

namespace echion::inject {

Status check_stack_room(MapLookup& map, const arch::Registers& registers, const StackBounds& bounds,
                        std::size_t size_bytes) {
    const Address stack = arch::stack_pointer(registers);
    for (const arch::AlternateStack& alternate : bounds.alternate_stacks) {
        if (const std::size_t room = stack - alternate.start; room <= alternate.size_bytes) {
            return room >= size_bytes
                       ? Status()
                       : fail(ErrorKind::kRefused, "on a signal stack with no room left");
        }
    }
    // The byte below the stack pointer: the pointer of an empty stack is behind its range.
    const auto range = map.find(stack - 1);
    if (!range || !range->is_writable || stack - range->start < size_bytes) {
        return fail(ErrorKind::kRefused, "at the end of its stack");
    }
    // The C library places a thread's own data at the upper end of the stack that it makes.
    const Address thread = arch::thread_pointer(registers);
    const bool is_own = bounds.is_main_thread ? range->contains(bounds.in_main_stack)
                                              : range->contains(thread) && thread >= stack;
    if (!is_own) {
        return fail(ErrorKind::kRefused,
                    "on a stack that is not its thread's own (a coroutine's?)");
    }
    return {};
}

}  // namespace echion::inject
