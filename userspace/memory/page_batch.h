#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/mapping.h"
#include "memory/address.h"
#include "memory/reader.h"

namespace echion {

/// Unit in which stack memory is fetched when it is met. Frames lie close together (data-stack
/// chunks of 16 KiB in 3.11 and later, the object allocator's pools before), so that one page
/// brings several frames. Smallest page of every supported system.
constexpr std::size_t kPageBytes = 4096;

/// The pages that the walks of one thread's stack have needed lately, and which part of each:
/// fetched ahead in the next tick's first read, so that in the steady state a stack costs no read
/// of its own.
///
/// Sorted by address. Plain data without a constructor: lives in zeroed memory.
class PageSet {
  public:
    static constexpr std::size_t kCapacity = 4096;

    [[nodiscard]] std::size_t size() const { return count_; }
    [[nodiscard]] Address page(std::size_t index) const { return Address(entries_[index].page); }

    /// What is to be copied of a page: [from, end).
    [[nodiscard]] Address from(std::size_t index) const {
        return page(index) + entries_[index].from;
    }
    [[nodiscard]] Address end(std::size_t index) const { return page(index) + entries_[index].end; }

    /// Notes that a walk used [from, end), of one page. A full set takes no more until some have
    /// expired: what is not in it is fetched when a walk comes to it.
    void touch(Address from, Address end, std::uint32_t walk);
    /// Drops the pages that no walk since `walk - max_age` has used, and of the others the parts
    /// that none has used since the last call.
    void expire(std::uint32_t walk, std::uint32_t max_age);
    void erase(Address page);
    void clear() { count_ = 0; }

  private:
    struct Entry {
        std::uintptr_t page;
        std::uint32_t last_walk;
        std::uint16_t from, end;                // to be copied
        std::uint16_t recent_from, recent_end;  // used since the last expire()
    };
    std::size_t lower_bound(std::uintptr_t page) const;
    std::size_t find_place(std::uintptr_t page);

    std::uint32_t count_;
    std::uint32_t last_;  // the entry that was touched last: the next frame is often beside it
    Entry entries_[kCapacity];
};

/// One round of reading: ranges are requested, copied together in as few system calls as possible,
/// then looked up by address. Memory for most stacks is reserved by make(), and becomes usable as
/// rounds grow; a program may limit its own address space as it runs, so that no more is taken of
/// it than it needs.
class PageBatch {
  public:
    static constexpr std::size_t kMaxRequests = 1024;
    static constexpr std::size_t kKeptRequests = 80;

    /// `arena_bytes`: the most room for the copies of one round.
    static Result<PageBatch> make(std::size_t arena_bytes);

    /// Forgets the round before. If that was too large for the room, there is twice as much from
    /// now on, up to the most: some system calls.
    void reset();

    /// Names a requested range until reset(); after that, nothing.
    struct Handle {
        std::uint32_t round;  // 0: of no round, so that zeroed memory holds kNone
        std::uint32_t index;

        bool operator==(const Handle&) const = default;
    };
    static constexpr Handle kNone{0, 0};

    /// Requests a range of any size, or kNone when the round is full.
    Handle add(Address from, std::size_t size_bytes);
    /// What is requested between the two calls, once a round, find() does not look at: it is asked
    /// for by its handle only.
    void begin_unsearched() { unsearched_from_ = unsearched_end_ = count_; }
    void end_unsearched() { unsearched_end_ = count_; }
    /// Requests what a set holds, neighbours as one range. False when the round is full but for
    /// kKeptRequests: the rest is fetched when a walk comes to it.
    bool add_pages(const PageSet& pages);
    /// Copies what has been requested since the last run(), in the order of the requests. Ranges
    /// that cannot be read are left out, the others are still copied. Returns the number left out.
    std::size_t run(MemoryReader& reader);
    /// The copy of a requested range; null when it has not been read, could not be, is kNone or of
    /// an earlier round.
    [[nodiscard]] const std::byte* copy(Handle handle) const;
    /// Whether a handle is of the round that is open; kNone is of none.
    [[nodiscard]] bool is_of_this_round(Handle handle) const { return handle.round == round_; }
    /// Takes the pages that could not be read out of a set whose pages have been added and run. One
    /// page that has gone (a chunk of stack given back) fails all its neighbours' copy: without it,
    /// the next round gets them.
    void erase_unread(PageSet& pages);

    /// The local copy of a range, or null when it has not been copied as a whole. Looks at pages
    /// and at ranges that were added.
    const std::byte* find(Address from, std::size_t size_bytes);
    /// Copies the page or pages around a range now, and returns the range's copy; null when it
    /// cannot be read. For a walk that leaves the pages known before. When the arena is full it
    /// starts over, which ends all handles: take what they name out first.
    const std::byte* fetch(MemoryReader& reader, Address from, std::size_t size_bytes);

    /// How often fetch() has read.
    [[nodiscard]] std::uint64_t fetches() const { return fetches_; }
    [[nodiscard]] bool is_empty() const { return count_ == 0; }
    /// Room for the copies of this round, full or empty.
    [[nodiscard]] std::size_t capacity_bytes() const { return arena_.capacity_bytes(); }
    [[nodiscard]] std::size_t free_bytes() const { return arena_.capacity_bytes() - used_; }
    [[nodiscard]] std::size_t free_requests() const { return kMaxRequests - count_; }

  private:
    void enlarge();

    static constexpr std::size_t kFirstArenaBytes = std::size_t{16} << 20;

    Reservation arena_;
    std::size_t max_arena_bytes_ = 0;
    MappingKind kind_ = MappingKind::kPrivate;
    bool was_too_small_ = false;
    FixedArray<ReadRequest> requests_;
    FixedArray<bool> failed_;
    std::size_t used_ = 0;
    std::size_t count_ = 0;  // requests in this round
    std::size_t run_ = 0;    // of which have been copied
    std::size_t last_hit_ = 0;
    std::size_t unsearched_from_ = 0;  // [from, end): requests that find() leaves out
    std::size_t unsearched_end_ = 0;
    std::uint32_t round_ = 1;
    std::uint64_t fetches_ = 0;
};

}  // namespace echion
