#pragma once

#include <sys/types.h>

#include <cstdint>

#include "base/error.h"
#include "base/unique_fd.h"
#include "memory/reader.h"

namespace echion {

/// Reads the memory of one process by system call, so that an address that is not mapped is an
/// error and never a fault. Linux, in this order, going on to the next once one is refused
/// (seccomp, a kernel without CONFIG_CROSS_MEMORY_ATTACH), at the start or later:
///
///   process_vm_writev(2)  of the own process only, which writes to itself. The kernel copies from
///                         the ranges as from any caller's buffers, and looks up and pins the pages
///                         of the one buffer that they go into; when it reads, those of each range
///                         (mm/process_vm_access.c). 20 ranges of 128 bytes on 20 pages: 1.7 µs
///                         instead of 7.5.
///   process_vm_readv(2)
///   pread(2)              on /proc/PID/mem. That of the own process is open for the length of one
///                         read() only, and closed if it is still the same file: the application
///                         may close all descriptors at any time, and be given the number for a
///                         file of its own.
///
/// After open() no call allocates. One thread at a time.
class ProcessReader final : public MemoryReader {
  public:
    /// `pid`: the process as this one sees it, or a thread of it; its own pid is the in-process
    /// case, which reads through the calling thread, as long as that lives. kRefused (with
    /// errno) when neither way of reading works, tried on `probe`, an address that is mapped; a
    /// null `probe` leaves the choice to the first read.
    Status open(pid_t pid, Address probe);
    /// The same for the process that this runs in.
    Status open_own();

    std::size_t read(std::span<const ReadRequest> requests) noexcept override;

    /// Declares a range of this very process that stays mapped as long as it lives (static data of
    /// libpython): it is copied without a system call. Only for a reader of the own process.
    void set_direct_range(Address from, std::size_t size_bytes) {
        direct_from_ = from;
        direct_size_bytes_ = size_bytes;
    }

    /// Whether the last way of reading has been refused, too: nothing can be read any more.
    [[nodiscard]] bool is_refused() const { return is_refused_; }
    /// What failed then, of the own process.
    static constexpr const char* kRefused =
        "read memory: process_vm_readv and /proc/self/mem are refused";
    /// System calls made so far.
    [[nodiscard]] std::uint64_t system_calls() const { return system_calls_; }
    /// "process_vm_writev", "process_vm_readv" or "/proc/PID/mem".
    [[nodiscard]] const char* method() const;

  private:
    [[nodiscard]] bool is_direct(const ReadRequest& request) const {
        return request.from - direct_from_ < direct_size_bytes_ &&
               request.size_bytes <= direct_size_bytes_ - (request.from - direct_from_);
    }
    enum class Way { kWriteOwn, kRead, kMemFile };
    bool take_next_way();
    UniqueFd open_mem_file();
    std::size_t read_by_system_call(std::span<const ReadRequest> requests) noexcept;
    std::size_t read_part(std::span<const ReadRequest> requests) noexcept;
    std::size_t read_vectors(long system_call, std::span<const ReadRequest> requests) noexcept;
    std::size_t read_mem_file(std::span<const ReadRequest> requests) noexcept;
    std::size_t read_open_file(int fd, std::span<const ReadRequest> requests) noexcept;

    pid_t pid_ = 0;
    bool is_own_ = false;
    UniqueFd mem_fd_;  // of another process
    Way way_ = Way::kRead;
    bool is_refused_ = false;
    Address direct_from_;
    std::size_t direct_size_bytes_ = 0;
    std::uint64_t system_calls_ = 0;
};

}  // namespace echion
