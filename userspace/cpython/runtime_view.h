#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "cpython/layout.h"
#include "memory/address.h"
#include "memory/reader.h"

namespace echion::cpython {

/// Sizes that bound every walk of the target's lists. CPython sets none; a list that is longer is
/// taken for damage (kBoundExceeded) rather than followed.
constexpr std::size_t kMaxInterpreters = 256;
constexpr std::size_t kMaxThreadStates = 1U << 14;

/// Where the runtime of one process is, and how to read it. Plain data.
struct RuntimeView {
    Address runtime;    ///< _PyRuntime
    Address code_type;  ///< PyCode_Type; null when unknown, then code objects are checked less
    Version version;
    const Layout* layout = nullptr;
};

/// The fields of a struct _gil_runtime_state. Only the thread that holds the GIL can change its
/// Python stack, so these say whose stack may be changing. `switch_number` counts the times that
/// another thread than the one before has taken it (CPython Python/ceval_gil.c, take_gil).
///
/// Up to 3.11 a thread that goes from one interpreter to another (PyThreadState_Swap) keeps the GIL
/// without taking it anew: `last_holder` is then the state that it came from, and `current` the one
/// that it is in. Both are of the same thread until it drops the GIL.
struct GilState {
    Address last_holder;  ///< PyThreadState that holds it, or held it last; may be freed memory
    std::int32_t locked = 0;
    std::uintptr_t switch_number = 0;
    Address current;  ///< PyThreadState that runs with it; null when none does, or none is noted

    /// The PyThreadState whose stack may be changing, or was the last that could.
    [[nodiscard]] Address holder() const { return current ? current : last_holder; }
    [[nodiscard]] bool operator==(const GilState&) const = default;
};

/// The fields of a PyThreadState that a walk needs.
struct ThreadHead {
    Address prev;
    Address next;
    Address interpreter;
    Address frame;   ///< newest frame; null where it has to be read through `cframe`
    Address cframe;  ///< _PyCFrame that holds the newest frame; null where versions have none
    std::uint64_t id = 0;
    std::uintptr_t thread_id = 0;  ///< pthread_t
    std::uint32_t native_id = 0;   ///< 0 where the version does not keep it
    /// Free-threaded: whether it may run Python code. Where it is not attached, it is in C code or
    /// waits, with its frames in order.
    bool is_attached = false;

    /// Whether `cframe` is on a thread's C stack, as while frames run. The other one is part of the
    /// state, which is at `state`: the one of a thread that runs none (PyThreadState.root_cframe).
    [[nodiscard]] bool has_cframe_on_stack(Address state) const {
        // A PyThreadState has less than that.
        constexpr std::size_t kStateBytes = 1024;
        return cframe && cframe - state >= kStateBytes;
    }
};

/// One interpreter: what does not change while it lives.
struct InterpreterHead {
    Address interpreter;
    Address gil;  ///< its own, or the one that it shares
    std::int64_t id = 0;
};

/// kNotReady while the runtime is not initialised, or is gone.
Status check_ready(MemoryReader& reader, const RuntimeView& view);

/// Copies the list of interpreters into `out`; returns how many. kBoundExceeded when there are
/// more than fit, kNotReady when there are none.
Result<std::size_t> read_interpreters(MemoryReader& reader, const RuntimeView& view,
                                      std::span<InterpreterHead> out);

/// Where the runtime notes which thread state runs; null where the layout has no such field.
Address current_state_address(const RuntimeView& view);
/// `current_copy`: the pointer at current_state_address(), or null.
GilState parse_gil(const Layout& layout, const std::byte* copy, const std::byte* current_copy);
ThreadHead parse_thread_head(const Layout& layout, const std::byte* copy);

/// The newest thread state of an interpreter (the list's head; null for none).
Result<Address> read_threads_head(MemoryReader& reader, const RuntimeView& view,
                                  Address interpreter);
Result<ThreadHead> read_thread_head(MemoryReader& reader, const RuntimeView& view, Address thread);
Result<GilState> read_gil(MemoryReader& reader, const RuntimeView& view, Address gil);

}  // namespace echion::cpython
