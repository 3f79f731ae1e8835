#include "sampling/round_reader.h"

#include <algorithm>
#include <cstring>

namespace echion::sampling {

std::size_t RoundReader::read(std::span<const ReadRequest> requests) noexcept {
    std::size_t done = 0;
    for (const ReadRequest& request : requests) {
        is_over_ = is_over_ || reads_left_ == 0;
        if (is_over_) {
            break;
        }
        --reads_left_;
        const std::byte* copy = memory_.batch.find(request.from, request.size_bytes);
        if (copy == nullptr) {
            is_over_ = fetches_left_ == 0;
            if (is_over_) {
                break;
            }
            --fetches_left_;
            copy = memory_.batch.fetch(memory_.reader, request.from, request.size_bytes);
        }
        if (copy == nullptr) {
            break;
        }
        std::memcpy(request.into, copy, request.size_bytes);
        Address from = request.from;
        const Address end = from + request.size_bytes;
        while (from < end) {
            const Address next(
                std::min((from.value() & ~(kPageBytes - 1)) + kPageBytes, end.value()));
            thread_.stack.pages.touch(from, next, thread_.stack.walk);
            from = next;
        }
        ++done;
    }
    return done;
}

}  // namespace echion::sampling
