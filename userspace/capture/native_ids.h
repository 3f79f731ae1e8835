#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "memory/address_map.h"
#include "memory/reader.h"

namespace echion::capture {

/// The threads that the kernel knows of a process, by the ids that the process itself sees (those
/// of its innermost PID namespace) and by those that we see. Memory is taken by make().
class NativeIds {
  public:
    static constexpr std::size_t kMaxThreads = 3U << 13;

    static Result<NativeIds> make();

    /// Lists the threads of a process (0: this one). One open file per thread where the ids differ,
    /// else one for all.
    Status refresh(pid_t pid);

    /// Our id of the thread that calls itself `native_id`; 0 when there is none.
    [[nodiscard]] pid_t find(std::uint32_t native_id) const;
    [[nodiscard]] std::size_t size() const { return ids_.size(); }

    /// Where the C library's records of threads have the kernel's numbers.
    struct Place {
        std::size_t offset = 0;     ///< into what a pthread_t points to; 0: it cannot be told
        std::size_t witnesses = 0;  ///< living threads that agree on it
    };
    /// Finds it: 3.8 to 3.10 keep the pthread_t only. Taken for the place is the first where the
    /// number of the thread `main_thread` is that of the process, and every other thread has one of
    /// its own that the kernel lists (0: it has ended); where the main thread has gone or is not
    /// the process's first, one that fits all threads. One witness alone tells of itself only.
    [[nodiscard]] Place find_place(MemoryReader& reader, std::uintptr_t main_thread,
                                   std::span<const std::uintptr_t> thread_ids) const;

  private:
    // Living threads, of `thread_ids`, that have a number of their own there; 0 where one has none.
    [[nodiscard]] std::size_t count_witnesses(MemoryReader& reader, std::size_t offset,
                                              std::span<const std::uintptr_t> thread_ids) const;

    AddressMap ids_;
    std::uint32_t own_pid_ = 0;
};

}  // namespace echion::capture
