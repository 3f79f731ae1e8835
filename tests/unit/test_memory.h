#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <map>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "memory/address.h"
#include "memory/reader.h"

namespace echion::test {

/// A target made of local bytes: regions at addresses that the test chooses. What lies outside is
/// unreadable, as unmapped memory is, so a walker that reads too far fails its test.
class TestMemory final : public MemoryReader {
  public:
    TestMemory() = default;
    /// Allocates from `first` on.
    explicit TestMemory(Address first) : next_(first.value()) {}

    /// Maps `size_bytes` zero bytes at `at`. Regions must not overlap; two that touch stay apart,
    /// and a read across their border fails.
    void map(Address at, std::size_t size_bytes) {
        regions_[at.value()] = std::vector<std::byte>(size_bytes);
    }

    /// Maps zero bytes at the next free place, with an unmapped gap behind them.
    Address allocate(std::size_t size_bytes, std::size_t alignment = 16) {
        next_ = (next_ + alignment - 1) & ~(alignment - 1);
        const Address at(next_);
        map(at, size_bytes);
        next_ += size_bytes + kGapBytes;
        return at;
    }

    void unmap(Address at) {
        unmapped_[at.value()] = regions_[at.value()].size();
        regions_.erase(at.value());
    }

    /// From now on what lies between the regions can be read along with them, as what shares a page
    /// with them can.
    void fill_gaps() { has_gaps_ = false; }

    /// Writes into mapped memory; returns false (and changes nothing) if it is not all mapped.
    bool write_bytes(Address at, const void* from, std::size_t size_bytes) {
        std::byte* place = find(at, size_bytes);
        if (place == nullptr) {
            return false;
        }
        std::memcpy(place, from, size_bytes);
        return true;
    }

    /// Copies all that is mapped to where it is said to be, in memory of this process that the test
    /// has reserved there: for what reads only a process.
    void copy_to_own_places() const {
        for (const auto& [at, content] : regions_) {
            // NOLINTNEXTLINE(performance-no-int-to-ptr): the address is one of this process.
            std::memcpy(reinterpret_cast<void*>(at), content.data(), content.size());
        }
    }

    template <typename T>
    bool write(Address at, T value) {
        static_assert(std::is_trivially_copyable_v<T>);
        return write_bytes(at, &value, sizeof(value));
    }

    bool write(Address at, Address value) { return write(at, value.value()); }

    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        ++calls;
        std::size_t done = 0;
        for (const ReadRequest& request : requests) {
            if (request.size_bytes != 0) {
                const std::byte* place = find(request.from, request.size_bytes);
                if (place != nullptr) {
                    std::memcpy(request.into, place, request.size_bytes);
                } else if (has_gaps_ || !copy_with_gaps(request)) {
                    break;
                }
            }
            bytes += request.size_bytes;
            ++done;
        }
        return done;
    }

    /// Calls of read() so far, and the bytes that they copied.
    std::size_t calls = 0;
    std::size_t bytes = 0;

  private:
    static constexpr std::size_t kGapBytes = 64;

    bool copy_with_gaps(const ReadRequest& request) {
        const std::uintptr_t from = request.from.value();
        const std::uintptr_t end = from + request.size_bytes;
        for (const auto& [at, size_bytes] : unmapped_) {
            if (at < end && from < at + size_bytes) {
                return false;
            }
        }
        auto* into = static_cast<std::byte*>(request.into);
        std::memset(into, 0, request.size_bytes);
        bool has_any = false;
        for (const auto& [at, content] : regions_) {
            const std::uintptr_t low = std::max(from, at);
            const std::uintptr_t high = std::min(end, at + content.size());
            if (low < high) {
                std::memcpy(into + (low - from), content.data() + (low - at), high - low);
                has_any = true;
            }
        }
        return has_any;
    }

    std::byte* find(Address at, std::size_t size_bytes) {
        auto region = regions_.upper_bound(at.value());
        if (region == regions_.begin()) {
            return nullptr;
        }
        --region;
        const std::size_t offset = at.value() - region->first;
        std::vector<std::byte>& content = region->second;
        if (offset > content.size() || size_bytes > content.size() - offset) {
            return nullptr;
        }
        return content.data() + offset;
    }

    std::map<std::uintptr_t, std::vector<std::byte>> regions_;
    std::map<std::uintptr_t, std::size_t> unmapped_;
    bool has_gaps_ = true;
    std::uintptr_t next_ = 0x10000;
};

}  // namespace echion::test
