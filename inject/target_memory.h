#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/unique_fd.h"
#include "memory/reader.h"

namespace echion::inject {

/// The memory of one program image: of the address space that a process had when this was opened
/// (/proc/PID/mem). Once that process has executed another program or has ended, every access
/// fails, so that nothing is ever read from or written to a later image under the same number
/// (fs/proc/base.c, mem_rw(): the descriptor holds the mm_struct, not the process).
///
/// Several threads may use it at once.
class TargetMemory final : public MemoryReader {
  public:
    TargetMemory() = default;
    TargetMemory(TargetMemory&& other) noexcept : file_(std::move(other.file_)) {}
    TargetMemory& operator=(TargetMemory&& other) noexcept {
        file_ = std::move(other.file_);
        return *this;
    }

    /// kSystem with errno.
    static Result<TargetMemory> open(pid_t pid);

    std::size_t read(std::span<const ReadRequest> requests) noexcept override;

    /// Writes all, or kUnreadable with errno (EIO: the address space is gone); a part may have been
    /// written. Memory that the program itself may not write can be written where the kernel lets
    /// this process (proc_mem.force_override).
    Status write(Address to, std::span<const std::byte> bytes);
    template <typename T>
    Status write_value(Address to, const T& value) {
        return write(to, std::as_bytes(std::span(&value, 1)));
    }

    /// Whether `address`, which was mapped, can still be read.
    [[nodiscard]] bool is_alive(Address address);

  private:
    explicit TargetMemory(UniqueFd file) : file_(std::move(file)) {}

    UniqueFd file_;
};

}  // namespace echion::inject
