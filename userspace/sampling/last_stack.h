#pragma once

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

}  // namespace echion::sampling
