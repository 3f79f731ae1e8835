#pragma once

#include <array>
#include <cstdint>

#include "base/error.h"
#include "cpython/objects.h"
#include "memory/address.h"

namespace echion::cpython {

/// The types of CPython's that asynchronous code is followed through.
enum class TypeKind : std::uint8_t {
    kOther,
    kCoroutine,
    kGenerator,
    kAsyncGenerator,
    /// An iterator that drives the object in its first place: of a coroutine's __await__(), of an
    /// asynchronous generator's methods, of anext() with a default.
    kDriver,
    kFutureIterator,
    kFunction,
    kMethod,
    kFrame,
    kBuiltin,
    kPartial,
    kTaskWakeup,  ///< What wakes a task up (3.8, 3.9): the task is in its first place.
    kList,
    kDeque,
    kSet,
    kWeakSet,
    kFuture,  ///< _asyncio.Future, or a class made of it
    kTask,    ///< _asyncio.Task, or a class made of it
};

/// Tells the kinds of objects by the names that their types bear, and those of their bases. A name
/// proves nothing: whoever reads such an object checks each of its fields.
///
/// It remembers what it has learnt until forget(), which is due before the target has had the time
/// to free a class and put another one in its place. No allocation; one thread at a time.
class TypeKinds {
  public:
    /// kOther also for what cannot be read.
    TypeKind find(ObjectReader& objects, Address object);
    /// The same of a type itself.
    TypeKind find_of_type(ObjectReader& objects, Address type);
    void forget() { known_ = {}; }
    /// The same, but for types that are never freed: those that are no heap types.
    void forget_heap_types();

  private:
    struct Known {
        Address type;
        TypeKind kind;
        bool is_heap;
    };
    static constexpr std::size_t kKnown = 256;

    std::array<Known, kKnown> known_{};
};

}  // namespace echion::cpython
