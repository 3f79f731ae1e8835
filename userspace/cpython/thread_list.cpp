#include "cpython/thread_list.h"

namespace echion::cpython {

ThreadList read_thread_list(MemoryReader& reader, const RuntimeView& view, Address interpreter,
                            Address first, std::span<ListedState> out,
                            FunctionRef<const std::byte*(Address)> find_copy) {
    ThreadList list;
    Address previous;
    for (Address state = first; state;) {
        if (list.count == out.size()) {
            list.end = ListEnd::kFull;
            return list;
        }
        ThreadHead head;
        if (const std::byte* copy = find_copy(state)) {
            head = parse_thread_head(*view.layout, copy);
        } else if (const auto read = read_thread_head(reader, view, state)) {
            head = *read;
        } else {
            list.end = ListEnd::kTorn;
            return list;
        }
        if (head.prev != previous || head.interpreter != interpreter) {
            list.end = ListEnd::kTorn;
            return list;
        }
        out[list.count++] = {state, head};
        previous = state;
        state = head.next;
    }
    return list;
}

ThreadList read_thread_list(MemoryReader& reader, const RuntimeView& view, Address interpreter,
                            Address first, std::span<ListedState> out) {
    return read_thread_list(reader, view, interpreter, first, out,
                            [](Address) -> const std::byte* { return nullptr; });
}

}  // namespace echion::cpython
