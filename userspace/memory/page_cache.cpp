#include "memory/page_cache.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <utility>

namespace echion {

Result<PageCache> PageCache::make(std::size_t max_pages) {
    auto index = AddressMap::make(std::bit_ceil(2 * max_pages));
    auto pages = FixedArray<std::uintptr_t>::make(max_pages);
    auto arena = Reservation::make(max_pages * kPageBytes);
    if (!index || !pages || !arena) {
        return fail(ErrorKind::kNoSpace, "reserve memory for pages");
    }
    PageCache cache;
    cache.index_ = std::move(*index);
    cache.pages_ = std::move(*pages);
    cache.arena_ = std::move(*arena);
    return cache;
}

void PageCache::begin() {
    while (count_ > 0) {
        index_.erase(Address(pages_[--count_] & ~kUsed));
    }
    last_page_ = Address();
    last_copy_ = nullptr;
}

void PageCache::begin_ahead(MemoryReader& reader, std::size_t max_pages) noexcept {
    const std::size_t before = count_;
    begin();
    std::size_t wanted = 0;
    for (std::size_t i = 0; i < before && wanted < max_pages; ++i) {
        if ((pages_[i] & kUsed) != 0) {
            pages_[wanted++] = pages_[i] & ~kUsed;
        }
    }
    constexpr std::size_t kAtOnce = 64;
    std::array<ReadRequest, kAtOnce> requests;
    // Those that cannot be read any more leave no gap.
    for (std::size_t next = 0; next < wanted;) {
        const std::size_t size = std::min(kAtOnce, wanted - next);
        if (!arena_.grow_to((count_ + size) * kPageBytes)) {
            return;
        }
        for (std::size_t i = 0; i < size; ++i) {
            requests[i] = {Address(pages_[next + i]), arena_.data() + (count_ + i) * kPageBytes,
                           kPageBytes};
        }
        const std::size_t done = reader.read(std::span(requests).first(size));
        for (std::size_t i = 0; i < done; ++i) {
            const std::uintptr_t page = pages_[next + i];
            if (!index_.set(Address(page), static_cast<std::uint32_t>(count_))) {
                return;
            }
            pages_[count_++] = page;
        }
        next += done < size ? done + 1 : done;
    }
}

const std::byte* PageCache::find(MemoryReader& reader, Address page) noexcept {
    if (page == last_page_ && last_copy_ != nullptr) {
        return last_copy_;
    }
    std::uint32_t slot = index_.find(page);
    if (slot == AddressMap::kNone) {
        if (count_ == pages_.capacity() || !page || !arena_.grow_to((count_ + 1) * kPageBytes) ||
            !reader.read_bytes(page, arena_.data() + count_ * kPageBytes, kPageBytes) ||
            !index_.set(page, static_cast<std::uint32_t>(count_))) {
            return nullptr;
        }
        pages_[count_] = page.value() | kUsed;
        slot = static_cast<std::uint32_t>(count_++);
    }
    pages_[slot] |= kUsed;
    last_page_ = page;
    last_copy_ = arena_.data() + slot * kPageBytes;
    return last_copy_;
}

bool CachedReader::read_one(const ReadRequest& request) noexcept {
    if (reads_left_ == 0) {
        is_over_ = true;
        return false;
    }
    --reads_left_;
    std::size_t done = 0;
    while (done < request.size_bytes) {
        const Address from = request.from + done;
        const Address page(from.value() & ~(kPageBytes - 1));
        const std::size_t in_page = from - page;
        const std::size_t size = std::min(kPageBytes - in_page, request.size_bytes - done);
        const std::byte* copy = cache_.find(reader_, page);
        if (copy == nullptr) {
            return reader_.read({&request, 1}) == 1;
        }
        std::memcpy(static_cast<std::byte*>(request.into) + done, copy + in_page, size);
        done += size;
    }
    return true;
}

std::size_t CachedReader::read(std::span<const ReadRequest> requests) noexcept {
    std::size_t done = 0;
    while (done < requests.size() && read_one(requests[done])) {
        ++done;
    }
    return done;
}

}  // namespace echion
