#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cpython/layout.h"
#include "memory/address.h"
#include "memory/page_batch.h"
#include "memory/reader.h"

namespace echion::cpython {

/// What a frame says of itself: the code object, and where in it.
struct RawFrame {
    Address code;              ///< PyCodeObject, not yet checked
    std::int32_t offset = -1;  ///< bytes of the instruction from the code's start; negative:
                               ///< before the first

    [[nodiscard]] bool operator==(const RawFrame&) const = default;
};

/// The address in what a frame has for its code object: from 3.14 on that is a _PyStackRef, whose
/// lowest bits say who owns the reference. Pure.
Address strip_tag(const Layout& layout, Address executable);

/// Puts a frame together from its code object and its instruction field, as the frame has it (an
/// index or a pointer). False when the two cannot belong together. Pure.
bool make_raw_frame(const Layout& layout, Address code, std::intptr_t instruction, RawFrame* out);

/// What one frame says of itself: `copy` holds layout.frame.size bytes of it. For a frame in a
/// free- threaded build some words are read besides, whose place a copy of the bytecode leads back
/// to. False for one without Python code, and what cannot be a frame.
bool read_frame(const Layout& layout, MemoryReader& reader, const std::byte* copy, RawFrame* out);

/// The least that a chunk of a data stack has (3.11 and later), and what it has where no frame is
/// larger.
constexpr std::size_t kStackChunkBytes = std::size_t{16} << 10;
/// What a chunk begins with: a pointer to the chunk before it, null in the first; its size,
/// kStackChunkBytes or a power of two of them; and how many places, of a pointer each, were in use
/// when another chunk was begun (CPython Include/cpython/pystate.h, _PyStackChunk).
constexpr std::size_t kChunkHeadBytes = 3 * sizeof(void*);
/// What is in front of the first frame of a data stack: the head of its first chunk and one place,
/// which is left empty (Python/pystate.c, push_chunk()).
constexpr std::size_t kStackHeadBytes = kChunkHeadBytes + sizeof(void*);
/// Whether that is what these bytes can be. Pure.
bool is_stack_head(std::span<const std::byte, kStackHeadBytes> bytes);

/// Outcome of one walk.
struct Walk {
    std::size_t count = 0;           ///< frames written, newest first
    bool truncated = false;          ///< there were more than fit
    bool ends_at_generator = false;  ///< the root is a generator's frame: see FrameWalker
    bool ends_midway = false;        ///< frames may be below the root: see FrameWalker
    Address root;                    ///< the root's frame, if it is no generator's
    /// The newest without Python code (owner_without_code): of the C-level evaluation loop that
    /// runs the newest frame, on its C stack. Null: none was met.
    Address entry;
    bool broken = false;                  ///< the chain could not be followed to its root
    ErrorKind why = ErrorKind::kInvalid;  ///< when broken
};

/// Follows a thread's chain of frames from the newest to the root, over pages fetched ahead and,
/// where it leaves those, over pages fetched now. Bounded by the size of the output and safe
/// against cycles. It takes what stands in memory for what it is: whether the thread stood still
/// meanwhile is its caller's to prove.
///
/// From 3.11 on a generator's frame lets go of its caller's when it stops, and as compiled that may
/// be an instruction before it ceases to be the thread's newest frame (CPython Python/bytecodes.c,
/// YIELD_VALUE, RETURN_VALUE): a thread that stands just there shows a chain that ends at the
/// generator, which nobody runs. Likewise a new frame may become the thread's newest before it is
/// tied to its caller's, and in 3.11 and 3.12 the _PyCFrame that leads to it before it leads
/// anywhere (Python/ceval.c, _PyEval_EvalFrameDefault): the chain then ends where some earlier one
/// did. Frames that are no generator's lie in the thread's data stack, one on the other, so that
/// the root of a whole chain is the first in it (is_stack_head()).
class FrameWalker {
  public:
    FrameWalker(const Layout& layout, MemoryReader& reader, PageBatch& batch)
        : layout_(layout), reader_(reader), batch_(batch) {}

    /// Leaves out the frames of this code object: one that stands for no code of the program's.
    void skip_code(Address code) { skipped_code_ = code; }

    /// `head`: the thread's newest frame, null for none. `pages`: notes which pages the walk
    /// needed, under the number `walk`, so that they can be fetched ahead the next time.
    /// `places`: where the frames stand, one for each of `out`, or empty: not wanted.
    Walk walk(Address head, PageSet& pages, std::uint32_t walk, std::span<RawFrame> out,
              std::span<Address> places = {});

  private:
    // Notes the memory of a frame; returns the page where it begins. `last_page`: of the frame
    // before.
    Address touch(PageSet& pages, Address frame, Address last_page, std::uint32_t walk);
    bool is_first_of_stack(Address frame, PageSet& pages, std::uint32_t walk);
    const std::byte* find_or_fetch(Address from, std::size_t size_bytes);
    Address find_word(Address from, PageSet& pages, std::uint32_t walk);

    const Layout& layout_;
    MemoryReader& reader_;
    PageBatch& batch_;
    Address skipped_code_;
};

}  // namespace echion::cpython
