#include "stream/ring.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <cstring>
#include <thread>
#include <vector>

#include "platform/linux/memory_file.h"
#include "stream/encoder.h"

namespace echion::stream {
namespace {

struct Ends {
    RingProducer producer;
    RingConsumer consumer;
    RingMapping raw;  // a third view, to play the hostile side
};

Ends make_ends(std::size_t data_bytes = kMinRingBytes) {
    const UniqueFd fd = make_ring(data_bytes).value();
    return Ends{RingProducer(RingMapping::open(fd.get()).value()),
                RingConsumer(RingMapping::open(fd.get()).value()),
                RingMapping::open(fd.get()).value()};
}

std::vector<std::byte> batch_buffer() { return std::vector<std::byte>(kMaxBatchBytes); }

/// Publishes one batch whose every byte is `value`; false when there is no room.
bool put_batch(RingProducer& ring, std::uint32_t size_bytes, unsigned char value) {
    const auto room = ring.free_space();
    if (room.size() < size_bytes + sizeof(size_bytes)) {
        return false;
    }
    std::memcpy(room.data(), &size_bytes, sizeof(size_bytes));
    std::memset(room.data() + sizeof(size_bytes), value, size_bytes);
    ring.publish(size_bytes + sizeof(size_bytes));
    return true;
}

// Where vm.memfd_noexec is 2 a kernel may refuse a file that could be executed.
TEST(Ring, IsNothingToBeExecuted) {
    const UniqueFd one(memfd_create("echion-test", MFD_CLOEXEC | MFD_NOEXEC_SEAL));
    if (!one) {
        GTEST_SKIP() << "this kernel does not know MFD_NOEXEC_SEAL";
    }
    constexpr int kSealExec = 0x20;  // F_SEAL_EXEC
    EXPECT_NE(fcntl(make_ring(kMinRingBytes).value().get(), F_GET_SEALS) & kSealExec, 0);
}

TEST(Ring, DeliversBatchesInOrderAcrossTheEnd) {
    Ends ends = make_ends();
    auto buffer = batch_buffer();
    std::uint32_t size = 1;
    for (unsigned i = 0; i < 1000; ++i) {
        ASSERT_TRUE(put_batch(ends.producer, size, static_cast<unsigned char>(i)));
        const auto got = ends.consumer.read_batch(buffer);
        ASSERT_TRUE(got.has_value());
        ASSERT_EQ(*got, size);
        for (std::uint32_t at = 0; at < size; ++at) {
            ASSERT_EQ(buffer[at], std::byte(i & 0xffU));
        }
        size = size * 31 % 9973 + 1;
    }
    EXPECT_EQ(*ends.consumer.read_batch(buffer), 0U);
}

TEST(Ring, FullRingHasNoRoomUntilTheConsumerReads) {
    Ends ends = make_ends();
    auto buffer = batch_buffer();
    while (put_batch(ends.producer, 1000, 7)) {
    }
    EXPECT_LT(ends.producer.free_space().size(), 1004U);
    EXPECT_GT(ends.producer.percent_full(), 90U);
    ASSERT_EQ(*ends.consumer.read_batch(buffer), 1000U);
    EXPECT_TRUE(put_batch(ends.producer, 1000, 8));
    EXPECT_FALSE(put_batch(ends.producer, 1000, 8));
}

TEST(Ring, TwoThreadsLoseNothing) {
    Ends ends = make_ends();
    constexpr unsigned kBatches = 20'000;
    std::thread writer([&] {
        for (unsigned i = 0; i < kBatches;) {
            i += put_batch(ends.producer, 1 + i % 3000, static_cast<unsigned char>(i)) ? 1 : 0;
        }
    });
    auto buffer = batch_buffer();
    for (unsigned i = 0; i < kBatches;) {
        const auto got = ends.consumer.read_batch(buffer);
        ASSERT_TRUE(got.has_value());
        if (*got != 0) {
            ASSERT_EQ(*got, 1 + i % 3000);
            ASSERT_EQ(buffer[*got - 1], std::byte(i & 0xffU));
            ++i;
        }
    }
    writer.join();
}

TEST(Ring, CountersSurviveTheirProcess) {
    const UniqueFd fd = make_ring(kMinRingBytes).value();
    const RingConsumer consumer(RingMapping::open(fd.get()).value());
    const pid_t child = fork();
    if (child == 0) {
        RingProducer producer(RingMapping::open(fd.get()).value());
        producer.count(Counter::kTicks, 3);
        producer.count(Counter::kTicks);
        producer.set(Counter::kSamplerCpuNs, 99);
        raise(SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(consumer.counter(Counter::kTicks), 4U);
    EXPECT_EQ(consumer.counter(Counter::kSamplerCpuNs), 99U);
}

TEST(Ring, ForkedChildDoesNotInheritTheMapping) {
    Ends ends = make_ends();
    unsigned char resident = 0;
    const pid_t child = fork();
    if (child == 0) {
        _exit(mincore(ends.raw.header(), 1, &resident) == 0 ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

TEST(RingSize, IsAPowerOfTwoWithinBounds) {
    EXPECT_FALSE(make_ring(0).has_value());
    EXPECT_FALSE(make_ring(kMinRingBytes / 2).has_value());
    EXPECT_FALSE(make_ring(kMinRingBytes + 1).has_value());
    EXPECT_FALSE(make_ring(kMaxRingBytes * 2).has_value());
}

TEST(RingSeals, KeepItsSize) {
    const UniqueFd fd = make_ring(kMinRingBytes).value();
    EXPECT_NE(ftruncate(fd.get(), 0), 0);
    EXPECT_NE(ftruncate(fd.get(), 1 << 20), 0);
}

class ForeignRing : public testing::Test {
  protected:
    /// A memfd with a header that the test may spoil.
    UniqueFd make(const RingHeader& header, std::size_t size_bytes, int seals) {
        UniqueFd fd(memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING));
        EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(size_bytes)), 0);
        EXPECT_GE(pwrite(fd.get(), &header, std::min(sizeof(header), size_bytes), 0), 0);
        if (seals != 0) {
            EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), 0);
        }
        return fd;
    }
    RingHeader good() {
        RingHeader header{};
        header.magic = kRingMagic;
        header.version = kRingVersion;
        header.header_bytes = kRingHeaderBytes;
        header.data_bytes = kMinRingBytes;
        return header;
    }
    static constexpr std::size_t kSize = kRingHeaderBytes + kMinRingBytes;
};

TEST_F(ForeignRing, GoodOneOpens) {
    EXPECT_TRUE(RingMapping::open(make(good(), kSize, F_SEAL_SHRINK).get()).has_value());
}

TEST_F(ForeignRing, WithoutTheShrinkSealIsRefused) {
    EXPECT_FALSE(RingMapping::open(make(good(), kSize, 0).get()).has_value());
    EXPECT_FALSE(RingMapping::open(make(good(), kSize, F_SEAL_GROW).get()).has_value());
}

TEST_F(ForeignRing, WrongHeadersAreRefused) {
    RingHeader header = good();
    header.magic ^= 1;
    EXPECT_FALSE(RingMapping::open(make(header, kSize, F_SEAL_SHRINK).get()).has_value());
    header = good();
    header.version += 1;
    EXPECT_FALSE(RingMapping::open(make(header, kSize, F_SEAL_SHRINK).get()).has_value());
    header = good();
    header.data_bytes = kMinRingBytes * 2;
    EXPECT_FALSE(RingMapping::open(make(header, kSize, F_SEAL_SHRINK).get()).has_value());
    header.data_bytes = ~std::uint64_t{0} << 12U;
    EXPECT_FALSE(RingMapping::open(make(header, kSize, F_SEAL_SHRINK).get()).has_value());
    EXPECT_FALSE(RingMapping::open(make(good(), 10, F_SEAL_SHRINK).get()).has_value());
}

TEST_F(ForeignRing, OtherFilesAreRefused) {
    const UniqueFd file(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    EXPECT_FALSE(RingMapping::open(file.get()).has_value());
    EXPECT_FALSE(RingMapping::open(-1).has_value());
}

TEST(HostileProducer, HeadOutOfBoundsIsAProtocolError) {
    Ends ends = make_ends();
    auto buffer = batch_buffer();
    ends.raw.header()->head = kMinRingBytes + 1;
    EXPECT_EQ(ends.consumer.read_batch(buffer).error().kind, ErrorKind::kProtocol);
    ends.raw.header()->head = ~std::uint64_t{0};
    EXPECT_EQ(ends.consumer.read_batch(buffer).error().kind, ErrorKind::kProtocol);
}

TEST(HostileProducer, BatchSizeOutOfBoundsIsAProtocolError) {
    for (const std::uint32_t size : {0U, 5U, 100U, kMaxBatchBytes + 1, 0xffffffffU}) {
        Ends ends = make_ends();
        auto buffer = batch_buffer();
        std::memcpy(ends.raw.data(), &size, sizeof(size));
        ends.raw.header()->head = 8;  // room for the size and four bytes
        EXPECT_EQ(ends.consumer.read_batch(buffer).error().kind, ErrorKind::kProtocol) << size;
    }
}

TEST(HostileProducer, HalfASizeFieldIsAProtocolError) {
    Ends ends = make_ends();
    auto buffer = batch_buffer();
    ends.raw.header()->head = 3;
    EXPECT_EQ(ends.consumer.read_batch(buffer).error().kind, ErrorKind::kProtocol);
}

TEST(HostileConsumer, TailOutOfBoundsStopsTheProducer) {
    for (const std::uint64_t tail : {std::uint64_t{kMinRingBytes}, ~std::uint64_t{0}}) {
        Ends ends = make_ends();
        ASSERT_TRUE(put_batch(ends.producer, kMinRingBytes - 100, 1));
        ends.raw.header()->tail = tail;
        EXPECT_TRUE(ends.producer.free_space().empty());
        ends.raw.header()->tail = 0;
        EXPECT_TRUE(ends.producer.free_space().empty());
    }
}

TEST(EncoderBatch, WithoutRoomIsDroppedWholeAndReportedWithTheNext) {
    Ends ends = make_ends();
    auto buffer = batch_buffer();
    Encoder encoder(ends.producer);
    const std::string name(4000, 'x');
    encoder.begin_start(1, 3, 12, 1);
    ASSERT_TRUE(encoder.commit());
    unsigned batches = 1;
    for (;; ++batches) {
        encoder.begin_tick(1000);
        encoder.label(batches, name);
        if (!encoder.commit()) {
            break;
        }
    }
    EXPECT_EQ(ends.producer.counter(Counter::kRingFullTicks), 1U);
    for (unsigned i = 0; i < batches; ++i) {
        ASSERT_NE(*ends.consumer.read_batch(buffer), 0U);
    }
    EXPECT_EQ(*ends.consumer.read_batch(buffer), 0U);

    encoder.begin_tick(500);
    ASSERT_TRUE(encoder.commit());
    ASSERT_EQ(*ends.consumer.read_batch(buffer), 3U + 1 + 1 + 2);
    EXPECT_EQ(buffer[0], std::byte(RecordType::kTick));
    EXPECT_EQ(buffer[3], std::byte(RecordType::kLost));
    EXPECT_EQ(buffer[4], std::byte{1});

    encoder.begin_tick(500);
    ASSERT_TRUE(encoder.commit());
    EXPECT_EQ(*ends.consumer.read_batch(buffer), 3U);
}

TEST(EncoderBatch, OfATickThatHasLostOneIsVoidToo) {
    Ends ends = make_ends();
    auto buffer = batch_buffer();
    Encoder encoder(ends.producer);
    encoder.begin_tick(100);
    ASSERT_TRUE(encoder.commit());
    encoder.continue_tick(0);
    encoder.thread_end(1);
    ASSERT_TRUE(encoder.commit());
    encoder.continue_tick(20);
    encoder.stack(1, 0, 0, std::vector<FrameRef>(kMinRingBytes / 8));
    ASSERT_FALSE(encoder.commit());
    encoder.continue_tick(3);  // a loss told here would end the threads of the batches before
    EXPECT_EQ(encoder.batch_bytes(), 0U);
    encoder.thread_end(1);
    EXPECT_FALSE(encoder.commit());
    EXPECT_EQ(ends.producer.counter(Counter::kRingFullTicks), 1U);
    EXPECT_NE(*ends.consumer.read_batch(buffer), 0U);
    EXPECT_NE(*ends.consumer.read_batch(buffer), 0U);
    EXPECT_EQ(*ends.consumer.read_batch(buffer), 0U);

    encoder.begin_tick(50);
    ASSERT_TRUE(encoder.commit());
    ASSERT_EQ(*ends.consumer.read_batch(buffer), 2U + 3);
    EXPECT_EQ(buffer[2], std::byte(RecordType::kLost));
    EXPECT_EQ(buffer[3], std::byte{1});
    EXPECT_EQ(buffer[4], std::byte{23});
    encoder.continue_tick(0);
    EXPECT_TRUE(encoder.commit());
}

TEST(EncoderBatch, IsVoidAsAWholeWhenOneRecordDidNotFit) {
    Ends ends = make_ends();
    auto buffer = batch_buffer();
    Encoder encoder(ends.producer);
    encoder.begin_tick(1);
    const std::vector<FrameRef> frames(kMinRingBytes / 8);
    encoder.stack(1, 0, 0, frames);
    encoder.thread_end(1);  // would fit
    EXPECT_FALSE(encoder.commit());
    EXPECT_EQ(*ends.consumer.read_batch(buffer), 0U);
    EXPECT_FALSE(encoder.commit());  // and a commit without a begin publishes nothing
}

}  // namespace
}  // namespace echion::stream
