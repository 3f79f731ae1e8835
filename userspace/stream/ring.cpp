#include "stream/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <bit>
#include <cstring>
#include <utility>

#include "base/memory_file.h"
#include "stream/record.h"

namespace echion::stream {
namespace {

bool is_ring_size(std::uint64_t data_bytes) {
    return std::has_single_bit(data_bytes) && data_bytes >= kMinRingBytes &&
           data_bytes <= kMaxRingBytes;
}

}  // namespace

Result<UniqueFd> make_ring(std::size_t data_bytes) {
    if (!is_ring_size(data_bytes)) {
        return fail(ErrorKind::kBoundExceeded, "choose the ring's size");
    }
    UniqueFd fd = make_memory_file("echion-ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (!fd) {
        return fail(ErrorKind::kSystem, "create the ring (memfd_create)", errno);
    }
    if (ftruncate(fd.get(), static_cast<off_t>(kRingHeaderBytes + data_bytes)) != 0) {
        return fail(
            ErrorKind::kSystem,
            errno == EFBIG ? "the ring is larger than a file may be" : "size the ring (ftruncate)",
            errno);
    }
    RingHeader header{};
    header.magic = kRingMagic;
    header.version = kRingVersion;
    header.header_bytes = kRingHeaderBytes;
    header.data_bytes = data_bytes;
    if (pwrite(fd.get(), &header, sizeof(header), 0) != static_cast<ssize_t>(sizeof(header))) {
        return fail(ErrorKind::kSystem, "write the ring's header", errno);
    }
    if (fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        return fail(ErrorKind::kSystem, "seal the ring", errno);
    }
    return fd;
}

RingMapping::RingMapping(RingMapping&& other) noexcept
    : header_(std::exchange(other.header_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      data_bytes_(std::exchange(other.data_bytes_, 0)) {}

RingMapping& RingMapping::operator=(RingMapping&& other) noexcept {
    if (this != &other) {
        unmap();
        header_ = std::exchange(other.header_, nullptr);
        data_ = std::exchange(other.data_, nullptr);
        data_bytes_ = std::exchange(other.data_bytes_, 0);
    }
    return *this;
}

RingMapping::~RingMapping() { unmap(); }

void RingMapping::unmap() {
    if (header_ != nullptr) {
        munmap(header_, kRingHeaderBytes + 2 * data_bytes_);
    }
    header_ = nullptr;
    data_ = nullptr;
    data_bytes_ = 0;
}

Result<RingMapping> RingMapping::open(int fd) {
    // Without the seal whoever made the memfd could shrink it later, and the next access would be a
    // SIGBUS. F_GET_SEALS fails on anything but a memfd.
    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
        return fail(ErrorKind::kProtocol, "open the ring: not a sealed memfd");
    }
    struct stat info {};
    if (fstat(fd, &info) != 0) {
        return fail(ErrorKind::kSystem, "open the ring (fstat)", errno);
    }
    RingHeader header{};
    if (pread(fd, &header, offsetof(RingHeader, head), 0) !=
        static_cast<ssize_t>(offsetof(RingHeader, head))) {
        return fail(ErrorKind::kProtocol, "open the ring: no header");
    }
    if (header.magic != kRingMagic || header.version != kRingVersion ||
        header.header_bytes != kRingHeaderBytes || !is_ring_size(header.data_bytes) ||
        static_cast<std::uint64_t>(info.st_size) != kRingHeaderBytes + header.data_bytes) {
        return fail(ErrorKind::kProtocol, "open the ring: wrong header");
    }
    const auto data_bytes = static_cast<std::size_t>(header.data_bytes);

    // One reservation for header, data and the data's second image; then the parts over it.
    void* reserved = mmap(nullptr, kRingHeaderBytes + 2 * data_bytes, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (reserved == MAP_FAILED) {
        return fail(ErrorKind::kSystem, "map the ring (reserve)", errno);
    }
    RingMapping mapping;
    mapping.header_ = static_cast<RingHeader*>(reserved);
    mapping.data_ = static_cast<std::byte*>(reserved) + kRingHeaderBytes;
    mapping.data_bytes_ = data_bytes;
    void* first = mmap(reserved, kRingHeaderBytes + data_bytes, PROT_READ | PROT_WRITE,
                       MAP_SHARED | MAP_FIXED, fd, 0);
    if (first == MAP_FAILED) {
        return fail(ErrorKind::kSystem, "map the ring", errno);
    }
    void* second = mmap(mapping.data_ + data_bytes, data_bytes, PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_FIXED, fd, static_cast<off_t>(kRingHeaderBytes));
    if (second == MAP_FAILED) {
        return fail(ErrorKind::kSystem, "map the ring (second image)", errno);
    }
    // A forked child must not write into its parent's ring.
    if (madvise(reserved, kRingHeaderBytes + 2 * data_bytes, MADV_DONTFORK) != 0) {
        return fail(ErrorKind::kSystem, "keep the ring from forked children", errno);
    }
    return mapping;
}

RingProducer::RingProducer(RingMapping mapping) : mapping_(std::move(mapping)) {
    // A ring that was used before (an agent that is started again) goes on where it stopped.
    head_ = __atomic_load_n(&mapping_.header()->head, __ATOMIC_RELAXED);
    known_tail_ = __atomic_load_n(&mapping_.header()->tail, __ATOMIC_ACQUIRE);
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
        const std::uint64_t tail = __atomic_load_n(&mapping_.header()->tail, __ATOMIC_ACQUIRE);
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
    __atomic_store_n(&mapping_.header()->head, head_, __ATOMIC_RELEASE);
}

unsigned RingProducer::percent_full() const {
    if (mapping_.data_bytes() == 0) {
        return 100;
    }
    return static_cast<unsigned>((head_ - known_tail_) * 100 / mapping_.data_bytes());
}

RingConsumer::RingConsumer(RingMapping mapping) : mapping_(std::move(mapping)) {
    tail_ = __atomic_load_n(&mapping_.header()->tail, __ATOMIC_RELAXED);
}

Result<std::size_t> RingConsumer::readable_bytes() {
    const std::uint64_t head = __atomic_load_n(&mapping_.header()->head, __ATOMIC_ACQUIRE);
    __atomic_store_n(&mapping_.header()->looks, ++looks_, __ATOMIC_RELAXED);
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
    std::uint32_t size_bytes = 0;
    if (*readable < sizeof(size_bytes)) {
        return fail(ErrorKind::kProtocol, "read the ring: half a batch");
    }
    const std::byte* batch = mapping_.data() + (tail_ & (mapping_.data_bytes() - 1));
    std::memcpy(&size_bytes, batch, sizeof(size_bytes));
    // The producer could change it between the check and the use: keep the compiler from loading it
    // a second time.
    asm volatile("" : "+r"(size_bytes));
    if (size_bytes == 0 || size_bytes > kMaxBatchBytes || size_bytes > into.size() ||
        size_bytes > *readable - sizeof(size_bytes)) {
        return fail(ErrorKind::kProtocol, "read the ring: a batch's size is out of bounds");
    }
    std::memcpy(into.data(), batch + sizeof(size_bytes), size_bytes);
    tail_ += sizeof(size_bytes) + size_bytes;
    __atomic_store_n(&mapping_.header()->tail, tail_, __ATOMIC_RELEASE);
    return size_bytes;
}

}  // namespace echion::stream
