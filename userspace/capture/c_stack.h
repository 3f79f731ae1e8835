#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/error.h"
#include "memory/address.h"
#include "memory/reader.h"

namespace echion::capture {

/// The C stack of a thread that rests in the kernel, from where it stands to its end: what tells
/// which thread runs with a state.
class CStack {
  public:
    /// `thread_id`: its pthread_t, the C library's record of it, at which its stack ends (glibc
    /// nptl/allocatestack.c, musl src/thread/pthread_create.c), but for the process's first thread
    /// (`is_main`), whose stack lies above all others. Errors: those of read_blocked_call();
    /// kNotReady where it does not rest, or not on that stack.
    static Result<CStack> find(pid_t pid, pid_t tid, std::uintptr_t thread_id, bool is_main);

    [[nodiscard]] bool has(Address address) const {
        return address - Address(from_) < end_ - from_;
    }
    /// Whether a word of it points into the `size_bytes` from `object` on. Looks through the newest
    /// kSearchedBytes; empty where there are more, and none of these did.
    [[nodiscard]] std::optional<bool> refers_to(MemoryReader& reader, Address object,
                                                std::size_t size_bytes) const;

  private:
    static constexpr std::size_t kSearchedBytes = std::size_t{64} << 10;

    CStack(std::uintptr_t from, std::uintptr_t end) : from_(from), end_(end) {}

    std::uintptr_t from_;
    std::uintptr_t end_;
};

}  // namespace echion::capture
