#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "memory/address.h"
#include "memory/page_batch.h"
#include "stream/encoder.h"

namespace echion::sampling {

/// The stack that its owner had when it was last looked at: what the stream has of it, and what
/// makes it cheap to read again. An owner is whoever runs Python code by turns: a thread. Plain
/// data in zeroed memory; who makes one gives it room for its frames.
struct LastStack {
    Address* codes;          ///< code objects, root first…
    stream::FrameRef* refs;  ///< …and how they are called in the stream
    std::uint32_t frame_count;
    std::uint8_t flags;             ///< stream::StackFlag
    bool must_resend;               ///< to be written in full
    std::uint32_t codes_numbering;  ///< CodeRegistry::numbering() that `refs` belong to
    std::uint64_t refs_look;        ///< CodeRegistry::look() that found `refs`…
    std::uint32_t refs_count;       ///< …so many of them, from the root
    std::uint32_t walk;             ///< number of the last walk, the age of `pages`
    PageSet pages;                  ///< where its frames were
};

/// A stack whose code objects have their ids (StackCodes).
struct AssignedStack {
    const Address* codes = nullptr;          ///< root first…
    const stream::FrameRef* refs = nullptr;  ///< …so many
    std::size_t frame_count = 0;
    std::size_t kept = 0;  ///< frames from the root that are as they were
    std::uint32_t numbering = 0;
    std::uint64_t look = 0;
    bool lacks_lines = false;  ///< a later tick will find some lines that are 0
};

/// `last` is that stack from now on, but for what the stream has of it.
inline void keep(LastStack& last, const AssignedStack& stack) {
    std::copy_n(stack.codes, stack.frame_count, last.codes);
    std::copy(stack.refs + stack.kept, stack.refs + stack.frame_count, last.refs + stack.kept);
    last.codes_numbering = stack.numbering;
    last.refs_look = stack.look;
    last.refs_count = static_cast<std::uint32_t>(stack.frame_count);
}

}  // namespace echion::sampling
