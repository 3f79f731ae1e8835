#include "memory/page_batch.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace echion {
namespace {

// A gap that costs less to copy than another request does. Both its ends are in pages that a walk
// has read.
constexpr std::size_t kBridgedBytes = 1024;

constexpr std::uintptr_t page_of(std::uintptr_t address) { return address & ~(kPageBytes - 1); }

}  // namespace

std::size_t PageSet::lower_bound(std::uintptr_t page) const {
    const Entry* end = entries_ + count_;
    const Entry* found = std::lower_bound(
        entries_, end, page, [](const Entry& entry, std::uintptr_t p) { return entry.page < p; });
    return static_cast<std::size_t>(found - entries_);
}

std::size_t PageSet::find_place(std::uintptr_t page) {
    if (last_ >= count_ || entries_[last_].page != page) {
        last_ = static_cast<std::uint32_t>(lower_bound(page));
    }
    return last_;
}

void PageSet::touch(Address from, Address end, std::uint32_t walk) {
    const std::uintptr_t page = page_of(from.value());
    const auto low = static_cast<std::uint16_t>(from.value() - page);
    const auto high = static_cast<std::uint16_t>(end.value() - page);
    const std::size_t at = find_place(page);
    if (at < count_ && entries_[at].page == page) {
        Entry& entry = entries_[at];
        entry.last_walk = walk;
        entry.recent_from = std::min(entry.recent_from, low);
        entry.recent_end = std::max(entry.recent_end, high);
        entry.from = std::min(entry.from, low);
        entry.end = std::max(entry.end, high);
        return;
    }
    if (count_ == kCapacity) {
        return;
    }
    std::memmove(entries_ + at + 1, entries_ + at, (count_ - at) * sizeof(Entry));
    entries_[at] = {page, walk, low, high, low, high};
    ++count_;
}

void PageSet::expire(std::uint32_t walk, std::uint32_t max_age) {
    std::uint32_t kept = 0;
    for (std::uint32_t i = 0; i < count_; ++i) {
        if (walk - entries_[i].last_walk <= max_age) {
            Entry entry = entries_[i];
            if (entry.recent_from < entry.recent_end) {
                entry.from = entry.recent_from;
                entry.end = entry.recent_end;
            }
            entry.recent_from = kPageBytes;
            entry.recent_end = 0;
            entries_[kept++] = entry;
        }
    }
    count_ = kept;
}

void PageSet::erase(Address page) {
    const std::size_t at = lower_bound(page.value());
    if (at < count_ && entries_[at].page == page.value()) {
        std::memmove(entries_ + at, entries_ + at + 1, (count_ - at - 1) * sizeof(Entry));
        --count_;
    }
}

Result<PageBatch> PageBatch::make(std::size_t arena_bytes) {
    const MappingKind kind = pick_mapping_kind();
    auto arena = Reservation::make(std::min(arena_bytes, kFirstArenaBytes), kind);
    auto requests = FixedArray<ReadRequest>::make(kMaxRequests);
    auto failed = FixedArray<bool>::make(kMaxRequests);
    if (!arena || !requests || !failed) {
        return fail(ErrorKind::kNoSpace, "reserve memory for stack copies");
    }
    PageBatch batch;
    batch.arena_ = std::move(*arena);
    batch.max_arena_bytes_ = arena_bytes;
    batch.kind_ = kind;
    batch.requests_ = std::move(*requests);
    batch.failed_ = std::move(*failed);
    return batch;
}

void PageBatch::enlarge() {
    const std::size_t size_bytes = std::min(2 * arena_.capacity_bytes(), max_arena_bytes_);
    if (auto larger = Reservation::make(size_bytes, kind_)) {
        arena_ = std::move(*larger);
    } else {
        max_arena_bytes_ = arena_.capacity_bytes();  // the program's limit: not again
    }
}

void PageBatch::reset() {
    if (std::exchange(was_too_small_, false)) {
        enlarge();
    }
    used_ = 0;
    count_ = 0;
    run_ = 0;
    last_hit_ = 0;
    unsearched_from_ = unsearched_end_ = 0;
    round_ += round_ == ~0U ? 2 : 1;  // past 0, which is no round
}

PageBatch::Handle PageBatch::add(Address from, std::size_t size_bytes) {
    was_too_small_ =
        was_too_small_ || (size_bytes > free_bytes() && arena_.capacity_bytes() < max_arena_bytes_);
    if (count_ == kMaxRequests || size_bytes > free_bytes() ||
        from.value() + size_bytes < from.value() || !arena_.grow_to(used_ + size_bytes)) {
        return kNone;
    }
    requests_[count_] = {from, arena_.data() + used_, size_bytes};
    failed_[count_] = true;  // until run() has copied it
    used_ += size_bytes;
    return {round_, static_cast<std::uint32_t>(count_++)};
}

bool PageBatch::add_pages(const PageSet& pages) {
    for (std::size_t i = 0; i < pages.size();) {
        const Address from = pages.from(i);
        Address end = pages.end(i);
        for (++i; i < pages.size() && pages.from(i) - end <= kBridgedBytes; ++i) {
            end = pages.end(i);
        }
        if (free_requests() <= kKeptRequests || add(from, end - from) == kNone) {
            return false;
        }
    }
    return true;
}

const std::byte* PageBatch::copy(Handle handle) const {
    return handle.round != round_ || handle.index >= run_ || failed_[handle.index]
               ? nullptr
               : static_cast<std::byte*>(requests_[handle.index].into);
}

void PageBatch::erase_unread(PageSet& pages) {
    for (std::size_t i = pages.size(); i > 0; --i) {
        const Address from = pages.from(i - 1);
        if (find(from, pages.end(i - 1) - from) == nullptr) {
            pages.erase(pages.page(i - 1));
        }
    }
}

std::size_t PageBatch::run(MemoryReader& reader) {
    std::size_t left_out = 0;
    while (run_ < count_) {
        const std::size_t copied = reader.read({requests_.data() + run_, count_ - run_});
        for (std::size_t i = 0; i < copied; ++i) {
            failed_[run_ + i] = false;
        }
        run_ += copied;
        if (run_ < count_) {
            ++run_;  // the one that stopped the read
            ++left_out;
        }
    }
    return left_out;
}

const std::byte* PageBatch::find(Address from, std::size_t size_bytes) {
    // The frames of a stack follow each other: the range that served the last one mostly serves
    // the next, then its neighbours do.
    std::size_t i = last_hit_;
    for (std::size_t step = 0; step < run_; ++step, ++i) {
        if (i == unsearched_from_ && i < unsearched_end_) {
            step += unsearched_end_ - unsearched_from_;
            i = unsearched_end_;
        }
        if (i >= run_) {
            i = 0;
        }
        const ReadRequest& request = requests_[i];
        const std::size_t offset = from - request.from;
        if (offset < request.size_bytes && size_bytes <= request.size_bytes - offset &&
            !failed_[i]) {
            last_hit_ = i;
            return static_cast<const std::byte*>(request.into) + offset;
        }
    }
    return nullptr;
}

const std::byte* PageBatch::fetch(MemoryReader& reader, Address from, std::size_t size_bytes) {
    const std::uintptr_t begin = page_of(from.value());
    const std::uintptr_t last = page_of(from.value() + size_bytes - 1);
    if (last < begin) {
        return nullptr;
    }
    const std::size_t size = last - begin + kPageBytes;
    Handle handle = add(Address(begin), size);
    if (handle == kNone) {
        reset();  // a stack larger than the arena: what has been walked is not needed any more
        handle = add(Address(begin), size);
    }
    if (handle == kNone) {
        return nullptr;
    }
    ++fetches_;
    run(reader);
    last_hit_ = handle.index;
    const std::byte* pages = copy(handle);
    return pages == nullptr ? nullptr : pages + (from.value() - begin);
}

}  // namespace echion
