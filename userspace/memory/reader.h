#pragma once

#include <cstddef>
#include <cstring>
#include <span>
#include <type_traits>

#include "base/error.h"
#include "memory/address.h"

namespace echion {

/// One range to copy out of the target: `size_bytes` bytes at `from` into the local buffer `into`.
struct ReadRequest {
    Address from;
    void* into;
    std::size_t size_bytes;
};

/// Copies memory of the target, wherever the target is: this process, another one, a recorded
/// snapshot, a test's buffer. The walkers above it do not know which.
///
/// A reader belongs to one thread at a time. No call throws, allocates or blocks for longer than
/// the copy takes. What was read is not trusted: the target may change it at any moment.
class MemoryReader {
  public:
    MemoryReader() = default;
    MemoryReader(const MemoryReader&) = delete;
    MemoryReader& operator=(const MemoryReader&) = delete;
    virtual ~MemoryReader() = default;

    /// Copies the requests in the order given and returns how many were copied in full, counted
    /// from the first. On a short count the request at that index could not be read (not mapped, or
    /// not permitted); those behind it have not been tried. Buffers past the count hold garbage.
    virtual std::size_t read(std::span<const ReadRequest> requests) noexcept = 0;

    /// Copies one range in full, or fails with kUnreadable.
    Status read_bytes(Address from, void* into, std::size_t size_bytes) noexcept {
        const ReadRequest request{from, into, size_bytes};
        if (read({&request, 1}) != 1) {
            return fail(ErrorKind::kUnreadable, "read target memory");
        }
        return {};
    }

    /// Copies one trivially copyable value, or fails with kUnreadable.
    template <typename T>
    Result<T> read_value(Address from) noexcept {
        static_assert(std::is_trivially_copyable_v<T>);
        T value;
        if (auto status = read_bytes(from, &value, sizeof(value)); !status) {
            return tl::unexpected(status.error());
        }
        return value;
    }

    /// Copies a pointer of the target.
    Result<Address> read_pointer(Address from) noexcept {
        return read_value<std::uintptr_t>(from).map([](std::uintptr_t v) { return Address(v); });
    }
};

/// Loads a value at an offset of a local copy; the copy need not be aligned. The caller has checked
/// that the copy is long enough.
template <typename T>
T load(const void* copy, std::size_t offset) {
    static_assert(std::is_trivially_copyable_v<T>);
    T value;
    std::memcpy(&value, static_cast<const std::byte*>(copy) + offset, sizeof(value));
    return value;
}

inline Address load_address(const void* copy, std::size_t offset) {
    return Address(load<std::uintptr_t>(copy, offset));
}

}  // namespace echion
