#include "engine/bpf/snapshot_ring.h"

#include <errno.h>
#include <linux/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

namespace echion::engine {
namespace {

// The layout of a BPF ring buffer's mappings: Documentation/bpf/ringbuf.rst and
// kernel/bpf/ringbuf.c. The consumer's page is the first, the producer's the second, both with a
// counter at their start; behind them the data, mapped twice so that no
// record is split. Only 64-bit kernels run these programs, so that the counters are 64 bits wide
// for a 32-bit reader too.
constexpr std::size_t kRecordHeaderBytes = BPF_RINGBUF_HDR_SZ;
constexpr std::size_t kRecordAlignment = 8;

constexpr std::size_t round_up(std::size_t value, std::size_t to) {
    return (value + to - 1) & ~(to - 1);
}

}  // namespace

Result<SnapshotRing> SnapshotRing::open(int fd, std::size_t data_bytes,
                                        std::int64_t clock_ahead_ns) {
    const auto page_bytes = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    if (data_bytes < page_bytes || (data_bytes & (data_bytes - 1)) != 0) {
        return fail(ErrorKind::kInvalid, "snapshot ring: bad size");
    }
    SnapshotRing ring;
    ring.clock_ahead_ns_ = clock_ahead_ns;
    void* page = ::mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (page == MAP_FAILED) {
        return fail(ErrorKind::kSystem, "map the snapshot ring", errno);
    }
    ring.consumer_ = Mapping(page, page_bytes);
    ring.consumer_.keep_from_children();
    const std::size_t producer_bytes = page_bytes + 2 * data_bytes;
    void* producer =
        ::mmap(nullptr, producer_bytes, PROT_READ, MAP_SHARED, fd, static_cast<off_t>(page_bytes));
    if (producer == MAP_FAILED) {
        return fail(ErrorKind::kSystem, "map the snapshot ring", errno);
    }
    ring.producer_ = Mapping(producer, producer_bytes);
    ring.producer_.keep_from_children();
    ring.data_ = ring.producer_.data() + page_bytes;
    ring.mask_ = data_bytes - 1;
    ring.position_ = *reinterpret_cast<const std::uint64_t*>(ring.consumer_.data());
    return ring;
}

std::uint64_t SnapshotRing::written() const {
    return __atomic_load_n(reinterpret_cast<const std::uint64_t*>(producer_.data()),
                           __ATOMIC_ACQUIRE);
}

void SnapshotRing::release(std::uint64_t position) {
    position_ = position;
    __atomic_store_n(reinterpret_cast<std::uint64_t*>(consumer_.data()), position,
                     __ATOMIC_RELEASE);
}

SnapshotRing::Record SnapshotRing::next(std::uint64_t end) const {
    // More than the ring holds, or where no record begins.
    if (end - position_ > mask_ + 1 || position_ % kRecordAlignment != 0) {
        return {.kind = Record::kBroken};
    }
    const std::byte* at = data_ + (position_ & mask_);
    const std::uint32_t header =
        __atomic_load_n(reinterpret_cast<const std::uint32_t*>(at), __ATOMIC_ACQUIRE);
    if ((header & BPF_RINGBUF_BUSY_BIT) != 0) {
        return {.kind = Record::kBusy};
    }
    const std::size_t size_bytes = header & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
    const std::size_t whole_bytes = round_up(kRecordHeaderBytes + size_bytes, kRecordAlignment);
    if (whole_bytes > end - position_) {
        return {.kind = Record::kBroken};
    }
    Record record{.kind = Record::kDiscarded, .end = position_ + whole_bytes};
    if ((header & BPF_RINGBUF_DISCARD_BIT) != 0) {
        return record;
    }
    const auto* head = reinterpret_cast<const echion_snapshot*>(at + kRecordHeaderBytes);
    if (size_bytes < sizeof(*head)) {
        return {.kind = Record::kBroken};
    }
    const std::size_t frame_count = __atomic_load_n(&head->frame_count, __ATOMIC_RELAXED);
    if (frame_count > ECHION_SNAPSHOT_FRAMES ||
        size_bytes - sizeof(*head) < frame_count * sizeof(echion_frame)) {
        return {.kind = Record::kBroken};
    }
    record.kind = Record::kSnapshot;
    record.head = head;
    record.frames = {reinterpret_cast<const echion_frame*>(head + 1), frame_count};
    return record;
}

Result<ThreadRefTable> ThreadRefTable::make(std::uint32_t capacity) {
    auto refs = FixedArray<echion_thread_ref>::make(capacity);
    if (!refs) {
        return tl::unexpected(refs.error());
    }
    ThreadRefTable table;
    table.refs_ = std::move(*refs);
    return table;
}

void ThreadRefTable::set(std::uint32_t slot, std::uint32_t generation,
                         std::uintptr_t thread_state) {
    echion_thread_ref& ref = refs_[slot];
    // The generation last: until it matches, the rest is not looked at. A tick on another CPU sees
    // the stores in this order.
    __atomic_store_n(&ref.generation, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&ref.thread_state, thread_state, __ATOMIC_RELEASE);
    __atomic_store_n(&ref.generation, generation, __ATOMIC_RELEASE);
}

void ThreadRefTable::clear(std::uint32_t slot) {
    __atomic_store_n(&refs_[slot].generation, 0, __ATOMIC_RELEASE);
}

}  // namespace echion::engine
