#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/unique_fd.h"
#include "platform/shared_memory.h"
#include "stream/counters.h"

/// A ring of bytes in shared memory between one producer (the agent's sampler) and one consumer
/// (the command-line program).
///
///     0          kRingHeaderBytes                 kRingHeaderBytes + data_bytes
///     ┌──────────┬────────────────────────────────┐
///     │ header   │ data                           │   data is mapped twice in a row, so that what
///     └──────────┴────────────────────────────────┘   wraps around its end is contiguous in memory
///
///     header, a cache line each: identity │ head │ tail │ counters…
///
/// `head` and `tail` are byte counts that only grow; bytes tail..head are unread. Each side keeps
/// its own count and the sizes that it checked at opening in private memory, and checks what it
/// reads of the other's: neither side can make the other leave the mapping.
namespace echion::stream {

constexpr std::uint64_t kRingMagic = 0x676e69524e484345;  // "ECHNRing"
constexpr std::uint32_t kRingVersion = 1;
/// A multiple of every page size in use, so that the data can be mapped on its own.
constexpr std::size_t kRingHeaderBytes = 64 * 1024;
constexpr std::size_t kMaxCounters = 256;

constexpr std::size_t kMinRingBytes = 64 * 1024;
constexpr std::size_t kMaxRingBytes = std::size_t{256} << 20;
/// Some seconds of the busiest sampling, twice the largest batch.
constexpr std::size_t kDefaultRingBytes = std::size_t{8} << 20;

struct RingHeader {
    std::uint64_t magic;
    std::uint32_t version;
    std::uint32_t header_bytes;
    std::uint64_t data_bytes;  // a power of two
    alignas(64) std::uint64_t head;
    alignas(64) std::uint64_t tail;
    std::uint64_t looks;              // by the consumer: grows as long as there is one
    std::uint64_t stop_requested;     // by the consumer: 1 when the producer is to end
    alignas(64) std::uint64_t ended;  // by the producer: 1 when it will write no more
    alignas(64) std::uint64_t counters[kMaxCounters];
};
static_assert(sizeof(RingHeader) <= kRingHeaderBytes);
static_assert(kCounterCount <= kMaxCounters);

/// Makes an empty ring of `data_bytes` (a power of two between kMinRingBytes and kMaxRingBytes) in
/// new shared memory. Host side.
Result<UniqueFd> make_ring(std::size_t data_bytes = kDefaultRingBytes);

/// Owner of the mapping of one ring; shared by both ends.
class RingMapping {
  public:
    RingMapping() = default;
    RingMapping(RingMapping&& other) noexcept;
    RingMapping& operator=(RingMapping&& other) noexcept;
    RingMapping(const RingMapping&) = delete;
    RingMapping& operator=(const RingMapping&) = delete;
    ~RingMapping() = default;

    /// Maps the ring in `fd` after checking that it is shared memory of the right size, which
    /// cannot shrink (so that no access can fault), with this version's header. `fd` may be closed
    /// afterwards. A forked child does not inherit the mapping. Makes system calls, allocates
    /// nothing.
    static Result<RingMapping> open(int fd);

    [[nodiscard]] RingHeader* header() const {
        return reinterpret_cast<RingHeader*>(memory_.data());
    }
    /// 2 × data_bytes() of address space; byte i and byte i + data_bytes() are the same.
    [[nodiscard]] std::byte* data() const { return memory_.data() + kRingHeaderBytes; }
    [[nodiscard]] std::size_t data_bytes() const { return data_bytes_; }
    [[nodiscard]] std::atomic_ref<std::uint64_t> counter(Counter counter) const {
        return std::atomic_ref(header()->counters[static_cast<std::size_t>(counter)]);
    }

  private:
    TwiceMapped memory_;
    std::size_t data_bytes_ = 0;
};

/// The agent's end. One thread at a time; no call makes a system call, allocates or waits.
class RingProducer {
  public:
    RingProducer() = default;
    explicit RingProducer(RingMapping mapping);

    /// Contiguous free room behind everything published: the producer may write there, and nobody
    /// sees it until publish(). Empty when the ring is full, or when the consumer's count makes no
    /// sense (then for ever).
    [[nodiscard]] std::span<std::byte> free_space();
    /// Makes the first `size_bytes` of free_space() visible to the consumer.
    void publish(std::size_t size_bytes);

    /// Adds to a quality figure. Only the producer's thread.
    void count(Counter counter, std::uint64_t amount = 1) {
        const auto value = mapping_.counter(counter);
        value.store(value.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
    }
    /// Sets a quality figure that is measured rather than counted.
    void set(Counter counter, std::uint64_t value) {
        mapping_.counter(counter).store(value, std::memory_order_relaxed);
    }
    [[nodiscard]] std::uint64_t counter(Counter counter) const {
        return mapping_.counter(counter).load(std::memory_order_relaxed);
    }
    /// What the two ends tell each other without a channel: whether this end is to stop, how often
    /// the consumer has looked, and that there will be no more.
    [[nodiscard]] bool is_stop_requested() const {
        return std::atomic_ref(mapping_.header()->stop_requested).load(std::memory_order_relaxed) !=
               0;
    }
    [[nodiscard]] std::uint64_t consumer_looks() const {
        return std::atomic_ref(mapping_.header()->looks).load(std::memory_order_relaxed);
    }
    void end() { std::atomic_ref(mapping_.header()->ended).store(1, std::memory_order_release); }
    /// Share of the ring that is unread, 0 to 100, as of the last look at the consumer's count.
    [[nodiscard]] unsigned percent_full() const;
    [[nodiscard]] std::size_t data_bytes() const { return mapping_.data_bytes(); }

  private:
    RingMapping mapping_;
    std::uint64_t head_ = 0;
    std::uint64_t known_tail_ = 0;  // never ahead of the consumer's real count
    bool broken_ = false;
};

/// The command-line program's end. One thread at a time; makes no system calls.
class RingConsumer {
  public:
    RingConsumer() = default;
    explicit RingConsumer(RingMapping mapping);

    /// Bytes that can be read now, or kProtocol when the producer's count makes no sense.
    Result<std::size_t> readable_bytes();
    /// Copies the next batch (without its size field) into `into`, which must hold kMaxBatchBytes,
    /// and returns its size; 0 when there is none. kProtocol when the size field is out of bounds
    /// or goes past what was published: the ring is then of no further use.
    Result<std::size_t> read_batch(std::span<std::byte> into);

    /// Asks the producer to end, and whether it says that it has: for when the channel is gone.
    void request_stop() {
        std::atomic_ref(mapping_.header()->stop_requested).store(1, std::memory_order_relaxed);
    }
    [[nodiscard]] bool producer_has_ended() const {
        return std::atomic_ref(mapping_.header()->ended).load(std::memory_order_acquire) != 0;
    }
    [[nodiscard]] std::uint64_t counter(Counter counter) const {
        return mapping_.counter(counter).load(std::memory_order_relaxed);
    }
    [[nodiscard]] std::size_t data_bytes() const { return mapping_.data_bytes(); }

  private:
    RingMapping mapping_;
    std::uint64_t tail_ = 0;
    std::uint64_t looks_ = 0;
};

}  // namespace echion::stream
