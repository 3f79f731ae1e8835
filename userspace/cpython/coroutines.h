#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "cpython/frame_walker.h"
#include "cpython/objects.h"
#include "cpython/type_kinds.h"
#include "memory/address.h"

namespace echion::cpython {

/// What a coroutine, a generator or an asynchronous generator is doing.
enum class CoroutineState : std::uint8_t {
    kCreated,    ///< not begun
    kSuspended,  ///< at a yield or an await
    kExecuting,  ///< its frame is on a thread's stack
    kFinished,
};

/// Whether what is of this kind is one of them.
constexpr bool is_coroutine(TypeKind kind) {
    return kind == TypeKind::kCoroutine || kind == TypeKind::kGenerator ||
           kind == TypeKind::kAsyncGenerator;
}

/// One of them, as read.
struct Coroutine {
    CoroutineState state = CoroutineState::kFinished;
    /// Of its frame; null when it has none. A thread's newest frame can be one whose state says
    /// that it is suspended, or has ended: for the few instructions in which it begins or stops.
    Address place;
    RawFrame frame;  ///< of one that is not executing and not finished
    Address awaits;  ///< the object that it drives by `await` or `yield from`; null: none
};

/// Reads `object`, of kind kCoroutine, kGenerator or kAsyncGenerator. Bounded; some ten reads.
/// Errors: kUnreadable, kInvalid.
Result<Coroutine> read_coroutine(ObjectReader& objects, Address object);

/// The frames of a chain of coroutines, each of which drives the next.
struct CoroutineChain {
    std::size_t count = 0;   ///< frames written, outermost first
    bool truncated = false;  ///< there were more than fit, or the chain is a ring
    bool broken = false;     ///< it could not be followed to its end
    /// Of the first: on a thread's stack, which then holds all of the chain, and none is written.
    CoroutineState state = CoroutineState::kFinished;
    Address place;  ///< of the first one's frame, as Coroutine::place
    /// What the last one waits for, such as an iterator of a future; null: nothing that is known.
    Address end;
};

/// Follows the chain from `coroutine` down to what the innermost one waits for. `out` bounds it.
CoroutineChain follow_coroutines(ObjectReader& objects, TypeKinds& kinds, Address coroutine,
                                 std::span<RawFrame> out);

}  // namespace echion::cpython
