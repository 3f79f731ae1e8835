// The ring between a hostile producer and this consumer: header and data change at any moment,
// between two reads and while one is under way. The other way round too: a producer whose consumer
// writes what it likes.
//
//      input:  steps of 16 bytes: u8 what, u8 where, u16 number, u32 value, u64 value
//              what 0: write the first value into the header, at word `where`
//                   1: the same, counted from its present value
//                   2: write 4 bytes into the data at `number`
//                   3: consumer reads `where` batches
//                   4: likewise, while another thread writes both values in turn at word `where`
//                      of the header, or, if that is the last, at `number` of the data
//                   5: producer publishes `number` bytes
//                   6: the consumer asks and looks

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <thread>

#include "fuzz_support.h"
#include "stream/record.h"
#include "stream/ring.h"

namespace {

using namespace echion;
using fuzz::require;

constexpr std::size_t kMostSteps = 64;
constexpr std::size_t kMostRaces = 4;
constexpr int kRacingReads = 200;

class Rings {
  public:
    explicit Rings(int fd)
        : hostile_(stream::RingMapping::open(fd).value()),
          consumer_(stream::RingMapping::open(fd).value()),
          producer_(stream::RingMapping::open(fd).value()) {}

    /// Writes what another process could write.
    std::uint64_t* header_word(std::size_t index) {
        constexpr std::size_t kWords = sizeof(stream::RingHeader) / sizeof(std::uint64_t);
        return reinterpret_cast<std::uint64_t*>(hostile_.header()) + index % kWords;
    }
    std::byte* data(std::size_t at) { return hostile_.data() + at % hostile_.data_bytes(); }

    void read(std::size_t batches) {
        static std::vector<std::byte> into(stream::kMaxBatchBytes);
        for (std::size_t i = 0; i < batches && !is_broken_; ++i) {
            const auto size = consumer_.read_batch(into);
            require(!size || *size <= into.size());
            is_broken_ = !size;
            if (size && *size == 0) {
                return;
            }
        }
    }

    void publish(std::size_t size_bytes) {
        const auto room = producer_.free_space();
        require(room.size() <= producer_.data_bytes());
        if (!room.empty()) {
            std::memset(room.data(), 0x5a, room.size());  // all of it may be written
            if (size_bytes > sizeof(std::uint32_t) && size_bytes <= room.size()) {
                const auto batch = static_cast<std::uint32_t>(size_bytes - sizeof(std::uint32_t));
                std::memcpy(room.data(), &batch, sizeof(batch));
                producer_.publish(size_bytes);
            }
        }
        require(producer_.percent_full() <= 100);
    }

    void look() {
        if (const auto readable = consumer_.readable_bytes()) {
            require(*readable <= hostile_.data_bytes());
        }
        consumer_.request_stop();
        require(producer_.is_stop_requested());
        (void)consumer_.producer_has_ended();
        (void)consumer_.counter(stream::Counter::kSamples);
        (void)producer_.consumer_looks();
    }

    void race(std::uint64_t* word, std::uint64_t first, std::uint64_t second) {
        std::atomic<bool> is_over = false;
        std::thread other([&] {
            while (!is_over.load(std::memory_order_relaxed)) {
                __atomic_store_n(word, first, __ATOMIC_RELAXED);
                __atomic_store_n(word, second, __ATOMIC_RELAXED);
            }
        });
        for (int i = 0; i < kRacingReads; ++i) {
            is_broken_ = false;
            read(1);
        }
        is_over = true;
        other.join();
    }

  private:
    stream::RingMapping hostile_;
    stream::RingConsumer consumer_;
    stream::RingProducer producer_;
    bool is_broken_ = false;  // a session ends then; here it goes on at the next read step
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto fd = stream::make_ring(stream::kMinRingBytes);
    require(fd.has_value());
    Rings rings(fd->get());
    fuzz::Input input(data, size);
    std::size_t races = 0;
    for (std::size_t steps = 0; !input.is_empty() && steps < kMostSteps; ++steps) {
        const auto what = input.take<std::uint8_t>();
        const auto where = input.take<std::uint8_t>();
        const auto number = input.take<std::uint16_t>();
        const auto small = input.take<std::uint32_t>();
        const auto large = input.take<std::uint64_t>();
        switch (what % 7) {
            case 0:
                *rings.header_word(where) = large;
                break;
            case 1:
                *rings.header_word(where) += large;
                break;
            case 2:
                std::memcpy(rings.data(number), &small, sizeof(small));
                break;
            case 3:
                rings.read(where);
                break;
            case 4:
                if (++races <= kMostRaces) {
                    rings.race(where == 255
                                   ? reinterpret_cast<std::uint64_t*>(rings.data(number / 8 * 8))
                                   : rings.header_word(where),
                               small, large);
                }
                break;
            case 5:
                rings.publish(number);
                break;
            default:
                rings.look();
                break;
        }
    }
    // Opened anew, what stands there now is refused or is safe.
    if (auto again = stream::RingMapping::open(fd->get())) {
        stream::RingProducer producer(std::move(*again));
        require(producer.free_space().size() <= producer.data_bytes());
    }
    return 0;
}
