#pragma once

#include <cstddef>
#include <cstdint>

#include "base/function_ref.h"
#include "memory/reader.h"

namespace echion {

/// A thread's C stack ends at the C library's record of it (glibc nptl/allocatestack.c, musl
/// src/thread/pthread_create.c), and is seldom larger than this.
inline constexpr std::uintptr_t kMostStackBytes = std::uintptr_t{256} << 20;

/// The C library's record of a thread, which a pthread_t points to, holds the kernel's number of
/// the thread (glibc nptl/descr.h and musl src/internal/pthread_impl.h, `tid`), at a place that
/// neither publishes. Looks for that place in the record behind `thread_id`: calls `is_it(offset,
/// number)` for each number at the start of a word, lowest offset first, until it says so. Returns
/// that offset; 0 where none is it.
///
/// The number stands at the start of a word in both libraries. The upper half of a word is mostly
/// that of a pointer, and such halves are as small as threads' numbers: 0x7f12 is one. Small
/// numbers of other kinds are in the record, too: to be sure takes two threads whose numbers are
/// known.
///
/// The record may be shorter than what is looked through, 2 KiB. No more than eight reads.
std::size_t find_thread_number(MemoryReader& reader, std::uintptr_t thread_id,
                               FunctionRef<bool(std::size_t, std::uint32_t)> is_it);

}  // namespace echion
