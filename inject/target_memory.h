#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <utility>

#include "base/error.h"
#include "base/unique_fd.h"
#include "memory/reader.h"
#include "memory/stall_guard.h"

namespace echion::inject {

/// The memory of one program image: of the address space that a process had when this was opened
/// (/proc/PID/mem). Once that process has executed another program or has ended, every access
/// fails, so that nothing is ever read from or written to a later image under the same number
/// (fs/proc/base.c, mem_rw(): the descriptor holds the mm_struct, not the process).
///
/// Several threads may use it, one at a time.
class TargetMemory final : public MemoryReader {
  public:
    TargetMemory() = default;
    TargetMemory(TargetMemory&& other) noexcept
        : pid_(other.pid_), file_(std::move(other.file_)), guard_(other.guard_) {}
    TargetMemory& operator=(TargetMemory&& other) noexcept {
        pid_ = other.pid_;
        file_ = std::move(other.file_);
        guard_ = other.guard_;
        return *this;
    }

    /// kSystem with errno. `guard` is told of each read and write, if there is one; it outlives
    /// this.
    static Result<TargetMemory> open(pid_t pid, StallGuard* guard = nullptr);

    /// Whether it meets the image of the first look only.
    [[nodiscard]] bool is_bound() const { return static_cast<bool>(file_); }

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
    TargetMemory(pid_t pid, UniqueFd file, StallGuard* guard)
        : pid_(pid), file_(std::move(file)), guard_(guard) {}
    ssize_t read_part(const ReadRequest& request) const;
    ssize_t write_part(Address to, std::span<const std::byte> bytes) const;

    pid_t pid_ = 0;
    UniqueFd file_;
    StallGuard* guard_ = nullptr;
};

}  // namespace echion::inject
