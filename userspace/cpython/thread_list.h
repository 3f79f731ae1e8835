#pragma once

#include <cstddef>
#include <span>

#include "base/function_ref.h"
#include "cpython/runtime_view.h"
#include "memory/address.h"
#include "memory/reader.h"

namespace echion::cpython {

/// A thread state, as it stood in the list of its interpreter.
struct ListedState {
    Address state;
    ThreadHead head;
};

/// How a walk of a list ended.
enum class ListEnd {
    kWhole,
    kFull,  ///< There are more than fit.
    kTorn,  ///< The list changed meanwhile, or what it holds makes no sense.
};

struct ThreadList {
    std::size_t count = 0;  ///< states that were met, whatever the end
    ListEnd end = ListEnd::kWhole;
};

/// Copies an interpreter's list of thread states from `first` on into `out`: newest first. That
/// each refers back to the one before it, keeps the walk from going round in circles.
/// `find_copy`: a copy of a state that has been made already (the layout's thread_state.size
/// bytes), or null.
ThreadList read_thread_list(MemoryReader& reader, const RuntimeView& view, Address interpreter,
                            Address first, std::span<ListedState> out,
                            FunctionRef<const std::byte*(Address)> find_copy);
ThreadList read_thread_list(MemoryReader& reader, const RuntimeView& view, Address interpreter,
                            Address first, std::span<ListedState> out);

}  // namespace echion::cpython
