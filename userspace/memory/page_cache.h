#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/mapping.h"
#include "memory/address_map.h"
#include "memory/page_batch.h"
#include "memory/reader.h"

namespace echion {

/// Whole pages of the target, each copied once: for walks from object to object, which lie close
/// together. A copy is as old as the first use of its page: begin() a new look before the target
/// has had the time to change what is read.
///
/// Memory is reserved by make(), and taken as pages are met. One thread at a time.
class PageCache {
  public:
    static Result<PageCache> make(std::size_t max_pages);

    /// Forgets all pages.
    void begin();
    /// Forgets all pages, and copies those that the last look used, `max_pages` at most, in a few
    /// reads: for looks that are much like the ones before.
    void begin_ahead(MemoryReader& reader, std::size_t max_pages) noexcept;
    /// The copy of a page, made now if there is none. Null: it cannot be read, or there is no room.
    const std::byte* find(MemoryReader& reader, Address page) noexcept;

    /// Pages that were copied since begin().
    [[nodiscard]] std::size_t page_count() const { return count_; }

  private:
    AddressMap index_;
    // Pages that are in the index, by place in the arena. The low bit: it has been used.
    static constexpr std::uintptr_t kUsed = 1;
    FixedArray<std::uintptr_t> pages_;
    Reservation arena_;
    std::size_t count_ = 0;
    Address last_page_;
    const std::byte* last_copy_ = nullptr;
};

/// A reader that answers from a cache, and fills it. What does not fit is read directly. What has
/// been copied costs no budget of the reader below, so that this one has a bound of its own: behind
/// that nothing can be read.
class CachedReader final : public MemoryReader {
  public:
    /// `cache` and `reader` outlive it. `max_reads`: ranges.
    CachedReader(PageCache& cache, MemoryReader& reader, std::size_t max_reads)
        : cache_(cache), reader_(reader), reads_left_(max_reads) {}

    std::size_t read(std::span<const ReadRequest> requests) noexcept override;

    /// Whether something has been refused because of the bound.
    [[nodiscard]] bool is_over() const { return is_over_; }

  private:
    bool read_one(const ReadRequest& request) noexcept;

    PageCache& cache_;
    MemoryReader& reader_;
    std::size_t reads_left_;
    bool is_over_ = false;
};

}  // namespace echion
