#include "stream/ring.h"

#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "stream/record.h"

namespace echion::stream {
namespace {

bool is_ring_size(std::uint64_t data_bytes) {
    return std::has_single_bit(data_bytes) && data_bytes >= kMinRingBytes &&
           data_bytes <= kMaxRingBytes;
}

/// A batch's size, loaded once: the producer could change it between the check and the use. Byte by
/// byte, as batches are not aligned.
std::uint32_t load_size(std::byte* batch) {
    std::array<std::byte, sizeof(std::uint32_t)> bytes;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = std::atomic_ref(batch[i]).load(std::memory_order_relaxed);
    }
    return std::bit_cast<std::uint32_t>(bytes);
}

}  // namespace

Result<UniqueFd> make_ring(std::size_t data_bytes) {
    if (!is_ring_size(data_bytes)) {
        return fail(ErrorKind::kBoundExceeded, "choose the ring's size");
    }
    RingHeader header{};
    header.magic = kRingMagic;
    header.version = kRingVersion;
    header.header_bytes = kRingHeaderBytes;
    header.data_bytes = data_bytes;
    return make_shared_memory("echion-ring", kRingHeaderBytes + data_bytes,
                              std::as_bytes(std::span(&header, 1)));
}

RingMapping::RingMapping(RingMapping&& other) noexcept
    : memory_(std::move(other.memory_)), data_bytes_(std::exchange(other.data_bytes_, 0)) {}

RingMapping& RingMapping::operator=(RingMapping&& other) noexcept {
    memory_ = std::move(other.memory_);
    data_bytes_ = std::exchange(other.data_bytes_, 0);
    return *this;
}

Result<RingMapping> RingMapping::open(int fd) {
    std::array<std::byte, offsetof(RingHeader, head)> identity;
    const auto size_bytes = check_shared_memory(fd, identity);
    if (!size_bytes) {
        return tl::unexpected(size_bytes.error());
    }
    RingHeader header{};
    std::memcpy(&header, identity.data(), identity.size());
    if (header.magic != kRingMagic || header.version != kRingVersion ||
        header.header_bytes != kRingHeaderBytes || !is_ring_size(header.data_bytes) ||
        *size_bytes != kRingHeaderBytes + header.data_bytes) {
        return fail(ErrorKind::kProtocol, "open the ring: wrong header");
    }
    RingMapping mapping;
    mapping.data_bytes_ = static_cast<std::size_t>(header.data_bytes);
    auto memory = TwiceMapped::map(fd, kRingHeaderBytes, mapping.data_bytes_);
    if (!memory) {
        return tl::unexpected(memory.error());
    }
    mapping.memory_ = std::move(*memory);
    return mapping;
}

RingProducer::RingProducer(RingMapping mapping) : mapping_(std::move(mapping)) {
    // A ring that was used before (an agent that is started again) goes on where it stopped.
    head_ = std::atomic_ref(mapping_.header()->head).load(std::memory_order_relaxed);
    known_tail_ = std::atomic_ref(mapping_.header()->tail).load(std::memory_order_acquire);
    broken_ = head_ - known_tail_ > mapping_.data_bytes();
}

std::span<std::byte> RingProducer::free_space() {
    if (mapping_.header() == nullptr || broken_) {
        return {};
    }
    const std::size_t size = mapping_.data_bytes();
    auto used = static_cast<std::size_t>(head_ - known_tail_);
    // Cheap while the consumer has not moved: its cache line then still is in this CPU's cache.
    if (used != 0) {
        const std::uint64_t tail =
            std::atomic_ref(mapping_.header()->tail).load(std::memory_order_acquire);
        if (tail - known_tail_ > used) {  // went back, or ahead of what was published
            broken_ = true;
            return {};
        }
        known_tail_ = tail;
        used = static_cast<std::size_t>(head_ - tail);
    }
    return {mapping_.data() + (head_ & (size - 1)), size - used};
}

void RingProducer::publish(std::size_t size_bytes) {
    head_ += size_bytes;
    std::atomic_ref(mapping_.header()->head).store(head_, std::memory_order_release);
}

unsigned RingProducer::percent_full() const {
    if (mapping_.data_bytes() == 0) {
        return 100;
    }
    return static_cast<unsigned>((head_ - known_tail_) * 100 / mapping_.data_bytes());
}

RingConsumer::RingConsumer(RingMapping mapping) : mapping_(std::move(mapping)) {
    tail_ = std::atomic_ref(mapping_.header()->tail).load(std::memory_order_relaxed);
}

Result<std::size_t> RingConsumer::readable_bytes() {
    const std::uint64_t head =
        std::atomic_ref(mapping_.header()->head).load(std::memory_order_acquire);
    std::atomic_ref(mapping_.header()->looks).store(++looks_, std::memory_order_relaxed);
    const std::uint64_t readable = head - tail_;
    if (readable > mapping_.data_bytes()) {
        return fail(ErrorKind::kProtocol, "read the ring: the head is out of bounds");
    }
    return static_cast<std::size_t>(readable);
}

Result<std::size_t> RingConsumer::read_batch(std::span<std::byte> into) {
    const auto readable = readable_bytes();
    if (!readable) {
        return tl::unexpected(readable.error());
    }
    if (*readable == 0) {
        return 0;
    }
    if (*readable < sizeof(std::uint32_t)) {
        return fail(ErrorKind::kProtocol, "read the ring: half a batch");
    }
    std::byte* batch = mapping_.data() + (tail_ & (mapping_.data_bytes() - 1));
    const std::uint32_t size_bytes = load_size(batch);
    if (size_bytes == 0 || size_bytes > kMaxBatchBytes || size_bytes > into.size() ||
        size_bytes > *readable - sizeof(size_bytes)) {
        return fail(ErrorKind::kProtocol, "read the ring: a batch's size is out of bounds");
    }
    std::memcpy(into.data(), batch + sizeof(size_bytes), size_bytes);
    tail_ += sizeof(size_bytes) + size_bytes;
    std::atomic_ref(mapping_.header()->tail).store(tail_, std::memory_order_release);
    return size_bytes;
}

}  // namespace echion::stream
