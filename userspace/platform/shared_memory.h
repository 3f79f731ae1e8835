#pragma once

#include <cstddef>
#include <span>

#include "base/error.h"
#include "base/unique_fd.h"

namespace echion {

/// Makes memory of `size_bytes`, zero behind `begins_with`, that processes share by handing over
/// its descriptor, and that nobody executes code from. Its size is fixed for good, also for those
/// who get it. `name` is for tools that list mappings.
Result<UniqueFd> make_shared_memory(const char* name, std::size_t size_bytes,
                                    std::span<const std::byte> begins_with);

/// Checks that `fd` is memory which nobody can make smaller, so that no access to it can fault
/// (SIGBUS), and copies its first bytes into `begins_with`. Its size. kProtocol when it is anything
/// else, or shorter than that.
Result<std::size_t> check_shared_memory(int fd, std::span<std::byte> begins_with);

/// Owner of a mapping of shared memory whose first `once_bytes` are mapped once, and the rest twice
/// in a row: what wraps around its end is contiguous in memory. A forked child does not inherit it.
class TwiceMapped {
  public:
    TwiceMapped() = default;
    TwiceMapped(TwiceMapped&& other) noexcept;
    TwiceMapped& operator=(TwiceMapped&& other) noexcept;
    TwiceMapped(const TwiceMapped&) = delete;
    TwiceMapped& operator=(const TwiceMapped&) = delete;
    ~TwiceMapped();

    /// Both sizes are multiples of the page size, and together no more than the memory has: see
    /// check_shared_memory(). `fd` may be closed afterwards. Allocates nothing.
    static Result<TwiceMapped> map(int fd, std::size_t once_bytes, std::size_t twice_bytes);

    /// once_bytes + 2 × twice_bytes, readable and writable; null when nothing is mapped.
    [[nodiscard]] std::byte* data() const { return data_; }

  private:
    void unmap();

    std::byte* data_ = nullptr;
    std::size_t size_bytes_ = 0;
};

}  // namespace echion
