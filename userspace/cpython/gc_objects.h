#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "base/function_ref.h"
#include "cpython/layout.h"
#include "memory/address.h"
#include "memory/page_cache.h"
#include "memory/reader.h"

namespace echion::cpython {

/// A walk over all objects that the garbage collector knows: the lists of its generations, the
/// youngest first, as objects move from those to the older ones.
///
///     generations[0]          PyGC_Head        PyGC_Head
///     ┌───────┬───────┐      ┌──────┬──────┐  object …
///     │ _next │ _prev │ ◄──► │ next │ prev │  ob_refcnt, ob_type, …
///     └───────┴───────┘      └──────┴──────┘  (two low bits of each word are flags)
///
/// The lists change while they are walked. Each step checks that the next object leads back; where
/// it does not, the walk reads anew and goes on from the last object that is still in a list, some
/// times. So it ends for lists of any shape, but may miss objects, or meet one twice; is_whole()
/// says whether it knows of any that it missed.
///
/// It can be done in parts. No allocation; one thread at a time.
/// Sources: CPython Modules/gcmodule.c, Python/gc.c, Include/internal/pycore_gc.h, 3.8 to 3.15.
/// Free-threaded builds have no such lists.
class GcObjects {
  public:
    /// `pages` is emptied when it is full, and at begin(). It outlives this.
    explicit GcObjects(PageCache& pages) : pages_(&pages) {}

    /// Begins a walk over the objects of one interpreter. kNotReady: the build has no lists.
    Status begin(MemoryReader& reader, const Layout& layout, Address runtime, Address interpreter);

    struct Object {
        Address object;
        Address type;
    };
    /// Goes on for at most so many objects; false when the walk is over.
    bool walk(MemoryReader& reader, std::size_t max_objects,
              FunctionRef<void(const Object&)> visit);

    /// False when objects may be missing: a list was broken, or the collector was at work, which
    /// then has taken some out of their lists.
    [[nodiscard]] bool is_whole() const { return is_whole_; }

  private:
    static constexpr std::size_t kLists = 4;  // three generations, and the permanent one
    static constexpr std::size_t kRecent = 64;
    static constexpr int kMaxRepairs = 256;
    static constexpr std::uintptr_t kFlags = 3;

    struct Node {
        Address next, previous, type;
    };
    bool read_node(MemoryReader& reader, Address node, Node* out);
    bool read_range(MemoryReader& reader, Address from, std::byte* into, std::size_t size_bytes);
    [[nodiscard]] bool is_head(Address node) const;
    bool begin_list(MemoryReader& reader);
    bool repair(MemoryReader& reader);
    void note_collection(MemoryReader& reader);

    PageCache* pages_;
    const Layout* layout_ = nullptr;
    Address collecting_;
    std::array<Address, kLists> heads_{};
    std::size_t list_ = 0;
    Address previous_;  // the node before…
    Address node_;      // …this one, which is next
    // Objects before it, in a ring: so many of them, the last one before `recent_end_`.
    std::array<Address, kRecent> recent_{};
    std::size_t recent_end_ = 0;
    std::size_t recent_count_ = 0;
    // Brent's cycle detection.
    Address mark_;
    std::uint64_t steps_ = 0;
    std::uint64_t mark_at_ = 1;
    int repairs_left_ = 0;
    bool is_whole_ = true;
};

}  // namespace echion::cpython
