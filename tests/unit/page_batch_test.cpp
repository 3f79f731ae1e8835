#include "memory/page_batch.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "test_memory.h"

namespace echion {
namespace {

constexpr std::size_t kArena = 16 * kPageBytes;

Address page(std::size_t number) { return Address(0x100000 + number * kPageBytes); }

/// Records what it is asked for, on its way to the memory.
class RecordingReader final : public MemoryReader {
  public:
    explicit RecordingReader(MemoryReader& memory) : memory_(memory) {}

    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        const std::size_t done = memory_.read(requests);
        for (std::size_t i = 0; i < requests.size() && i < done + 1; ++i) {
            tried.push_back(requests[i]);
        }
        return done;
    }

    std::vector<ReadRequest> tried;

  private:
    MemoryReader& memory_;
};

class PageBatchTest : public testing::Test {
  protected:
    void SetUp() override {
        auto made = PageBatch::make(kArena);
        ASSERT_TRUE(made.has_value());
        batch_ = std::move(*made);
    }

    /// Maps a page whose every word says which page it is.
    void map_page(std::size_t number) {
        memory_.map(page(number), kPageBytes);
        for (std::size_t at = 0; at < kPageBytes; at += sizeof(std::uint32_t)) {
            memory_.write(page(number) + at, static_cast<std::uint32_t>(number));
        }
    }
    /// Maps neighbours as one region, so that one range can cover them.
    void map_pages(std::size_t first, std::size_t count) {
        memory_.map(page(first), count * kPageBytes);
        for (std::size_t i = 0; i < count; ++i) {
            memory_.write(page(first + i), static_cast<std::uint32_t>(first + i));
        }
    }

    static std::uint32_t number_at(const std::byte* copy) { return load<std::uint32_t>(copy, 0); }

    test::TestMemory memory_;
    PageBatch batch_;
};

void touch(PageSet& pages, Address page, std::uint32_t walk) {
    pages.touch(page, page + kPageBytes, walk);
}

std::vector<Address> list(const PageSet& pages) {
    std::vector<Address> result;
    for (std::size_t i = 0; i < pages.size(); ++i) {
        result.push_back(pages.page(i));
    }
    return result;
}

TEST(PageSet, KeepsEachPageOnceInTheOrderOfAddresses) {
    PageSet pages{};
    for (const std::size_t number : {5, 1, 3, 5, 1}) {
        touch(pages, page(number), 1);
    }
    EXPECT_EQ(list(pages), (std::vector<Address>{page(1), page(3), page(5)}));
}

TEST(PageSet, ForgetsWhatNoWalkHasUsedLately) {
    PageSet pages{};
    touch(pages, page(1), 1);
    touch(pages, page(2), 5);
    touch(pages, page(3), 9);
    pages.expire(10, 5);
    EXPECT_EQ(list(pages), (std::vector<Address>{page(2), page(3)}));
}

TEST(PageSet, AgesSurviveTheWrapOfTheWalksNumber) {
    PageSet pages{};
    touch(pages, page(1), ~0U - 1);
    touch(pages, page(2), 2);
    pages.expire(3, 5);
    EXPECT_EQ(pages.size(), 2U);
    pages.expire(8, 5);
    EXPECT_EQ(pages.size(), 0U);
}

TEST(PageSet, TakesNoMoreWhenFullUntilSomeExpire) {
    PageSet pages{};
    for (std::size_t i = 0; i < PageSet::kCapacity; ++i) {
        touch(pages, page(i), i == 7 ? 1 : 2);
    }
    touch(pages, page(PageSet::kCapacity), 3);
    ASSERT_EQ(pages.size(), PageSet::kCapacity);
    EXPECT_EQ(pages.page(PageSet::kCapacity - 1), page(PageSet::kCapacity - 1));
    pages.expire(3, 1);
    ASSERT_EQ(pages.size(), PageSet::kCapacity - 1) << "page 7 was last used by walk 1";
    touch(pages, page(PageSet::kCapacity), 3);
    ASSERT_EQ(pages.size(), PageSet::kCapacity);
    EXPECT_EQ(pages.page(PageSet::kCapacity - 1), page(PageSet::kCapacity));
    for (std::size_t i = 1; i < pages.size(); ++i) {
        ASSERT_LT(pages.page(i - 1), pages.page(i));
    }
}

TEST(PageSet, ErasesOnlyWhatItHas) {
    PageSet pages{};
    touch(pages, page(1), 1);
    touch(pages, page(2), 1);
    pages.erase(page(3));
    EXPECT_EQ(pages.size(), 2U);
    pages.erase(page(1));
    EXPECT_EQ(list(pages), std::vector<Address>{page(2)});
    pages.clear();
    EXPECT_EQ(pages.size(), 0U);
}

TEST_F(PageBatchTest, CopiesInTheOrderOfTheRequests) {
    map_page(1);
    map_page(2);
    RecordingReader reader(memory_);
    batch_.add(page(2) + 8, 4);
    batch_.add(page(1), 4);
    batch_.add(page(2), 4);
    EXPECT_EQ(batch_.run(reader), 0U);
    ASSERT_EQ(reader.tried.size(), 3U);
    EXPECT_EQ(reader.tried[0].from, page(2) + 8);
    EXPECT_EQ(reader.tried[1].from, page(1));
    EXPECT_EQ(reader.tried[2].from, page(2));
}

TEST_F(PageBatchTest, NothingIsACopyBeforeItIsRead) {
    map_page(1);
    const auto handle = batch_.add(page(1), 4);
    EXPECT_EQ(batch_.copy(handle), nullptr);
    EXPECT_EQ(batch_.find(page(1), 4), nullptr);
    batch_.run(memory_);
    ASSERT_NE(batch_.copy(handle), nullptr);
    EXPECT_EQ(number_at(batch_.copy(handle)), 1U);
    EXPECT_EQ(batch_.copy(PageBatch::kNone), nullptr);
    EXPECT_EQ(batch_.copy(PageBatch::Handle{}), nullptr);
}

TEST_F(PageBatchTest, NeighbouringPagesAreOneRange) {
    map_pages(1, 3);
    map_page(5);
    PageSet pages{};
    for (const std::size_t number : {3, 5, 1, 2}) {
        touch(pages, page(number), 1);
    }
    RecordingReader reader(memory_);
    ASSERT_TRUE(batch_.add_pages(pages));
    EXPECT_EQ(batch_.run(reader), 0U);
    ASSERT_EQ(reader.tried.size(), 2U);
    EXPECT_EQ(reader.tried[0].size_bytes, 3 * kPageBytes);
    EXPECT_EQ(number_at(batch_.find(page(2), kPageBytes)), 2U);
    EXPECT_EQ(number_at(batch_.find(page(5), 4)), 5U);
}

TEST_F(PageBatchTest, ARangeThatCannotBeReadIsLeftOut) {
    map_page(1);
    map_page(3);
    const auto first = batch_.add(page(1), 4);
    const auto gone = batch_.add(page(2), 4);
    const auto beyond = batch_.add(page(3) + (kPageBytes - 2), 4);
    const auto last = batch_.add(page(3), 4);
    EXPECT_EQ(batch_.run(memory_), 2U);
    EXPECT_NE(batch_.copy(first), nullptr);
    EXPECT_EQ(batch_.copy(gone), nullptr);
    EXPECT_EQ(batch_.copy(beyond), nullptr);
    ASSERT_NE(batch_.copy(last), nullptr);
    EXPECT_EQ(number_at(batch_.copy(last)), 3U);
    EXPECT_EQ(batch_.find(page(2), 4), nullptr);
}

TEST_F(PageBatchTest, FindsNoRangeAcrossTwoCopies) {
    map_page(1);
    map_page(2);
    batch_.add(page(1), kPageBytes);
    batch_.add(page(2), kPageBytes);
    batch_.run(memory_);
    EXPECT_EQ(batch_.find(page(2) - 4, 8), nullptr);
    EXPECT_NE(batch_.find(page(2) - 4, 4), nullptr);
    EXPECT_EQ(batch_.find(page(1), kPageBytes + 1), nullptr);
    EXPECT_EQ(batch_.find(Address(UINTPTR_MAX - 3), 4), nullptr);
    EXPECT_EQ(batch_.find(Address(), 4), nullptr);
}

TEST_F(PageBatchTest, RefusesWhatHasNoRoomOrWrapsAround) {
    EXPECT_EQ(batch_.add(page(1), kArena + 1), PageBatch::kNone);
    EXPECT_EQ(batch_.add(Address(UINTPTR_MAX - 3), 8), PageBatch::kNone);
    EXPECT_NE(batch_.add(page(1), kArena), PageBatch::kNone);
    EXPECT_EQ(batch_.free_bytes(), 0U);
    EXPECT_EQ(batch_.add(page(1), 1), PageBatch::kNone);
}

TEST_F(PageBatchTest, HasMoreRoomAfterARoundThatWasTooLarge) {
    constexpr std::size_t kMost = std::size_t{64} << 20;
    auto batch = PageBatch::make(kMost).value();
    const std::size_t first_bytes = batch.capacity_bytes();
    EXPECT_LT(first_bytes, kMost);
    batch.reset();
    EXPECT_EQ(batch.capacity_bytes(), first_bytes);
    EXPECT_EQ(batch.add(page(1), first_bytes + 1), PageBatch::kNone);
    EXPECT_EQ(batch.capacity_bytes(), first_bytes) << "copies of this round are still there";
    batch.reset();
    EXPECT_EQ(batch.capacity_bytes(), 2 * first_bytes);
    EXPECT_NE(batch.add(page(1), first_bytes + 1), PageBatch::kNone);
    while (batch.capacity_bytes() < kMost) {
        ASSERT_EQ(batch.add(page(1), kMost), PageBatch::kNone);
        batch.reset();
    }
    EXPECT_EQ(batch.add(page(1), kMost + 1), PageBatch::kNone);
    batch.reset();
    EXPECT_EQ(batch.capacity_bytes(), kMost);
}

TEST_F(PageBatchTest, RefusesMoreRequestsThanItHasPlacesFor) {
    for (std::size_t i = 0; i < PageBatch::kMaxRequests; ++i) {
        ASSERT_NE(batch_.add(page(1), 1), PageBatch::kNone);
    }
    EXPECT_EQ(batch_.free_requests(), 0U);
    EXPECT_EQ(batch_.add(page(1), 1), PageBatch::kNone);
    PageSet pages{};
    touch(pages, page(1), 1);
    EXPECT_FALSE(batch_.add_pages(pages));
}

TEST_F(PageBatchTest, AHandleOfAnEarlierRoundNamesNothing) {
    map_page(1);
    map_page(2);
    const auto before = batch_.add(page(1), 4);
    batch_.run(memory_);
    batch_.reset();
    const auto now = batch_.add(page(2), 4);
    batch_.run(memory_);
    EXPECT_EQ(batch_.copy(before), nullptr) << "it would be the other page's copy";
    ASSERT_NE(batch_.copy(now), nullptr);
    EXPECT_EQ(number_at(batch_.copy(now)), 2U);
}

TEST_F(PageBatchTest, FetchesWholePagesAroundARange) {
    map_pages(1, 2);
    RecordingReader reader(memory_);
    const std::byte* copy = batch_.fetch(reader, page(2) - 4, 8);
    ASSERT_NE(copy, nullptr);
    EXPECT_EQ(number_at(copy + 4), 2U);
    ASSERT_EQ(reader.tried.size(), 1U);
    EXPECT_EQ(reader.tried[0].from, page(1));
    EXPECT_EQ(reader.tried[0].size_bytes, 2 * kPageBytes);
    EXPECT_EQ(batch_.find(page(1), 4), copy - (kPageBytes - 4));
}

TEST_F(PageBatchTest, FetchingWhatCannotBeReadLeavesTheOthers) {
    map_page(1);
    ASSERT_NE(batch_.fetch(memory_, page(1), 4), nullptr);
    EXPECT_EQ(batch_.fetch(memory_, page(2), 4), nullptr);
    EXPECT_EQ(batch_.fetch(memory_, page(2) - 4, 8), nullptr) << "its second half is not mapped";
    EXPECT_EQ(batch_.fetch(memory_, Address(UINTPTR_MAX - 3), 8), nullptr);
    EXPECT_EQ(batch_.fetch(memory_, page(1), 2 * kArena), nullptr) << "more than it has room for";
}

TEST_F(PageBatchTest, FetchStartsOverWhenTheArenaIsFull) {
    constexpr std::size_t kPages = kArena / kPageBytes + 1;
    for (std::size_t i = 0; i < kPages; ++i) {
        map_page(2 * i);
    }
    const auto requested = batch_.add(page(0), 4);
    batch_.run(memory_);
    for (std::size_t i = 0; i < kPages; ++i) {
        const std::byte* copy = batch_.fetch(memory_, page(2 * i), kPageBytes);
        ASSERT_NE(copy, nullptr) << i;
        ASSERT_EQ(number_at(copy), 2 * i);
    }
    EXPECT_EQ(batch_.copy(requested), nullptr) << "the round that it was of has ended";
}

TEST_F(PageBatchTest, APageThatHasGoneLeavesTheSetAndItsNeighboursStay) {
    map_page(1);
    map_page(2);
    map_page(4);  // page 3 has been given back
    PageSet pages{};
    for (const std::size_t number : {1, 2, 3, 4}) {
        touch(pages, page(number), 1);
    }
    ASSERT_TRUE(batch_.add_pages(pages));
    EXPECT_EQ(batch_.run(memory_), 1U) << "one range of neighbours fails as a whole";
    // The walk then fetches what it needs.
    ASSERT_NE(batch_.fetch(memory_, page(2), 4), nullptr);
    ASSERT_NE(batch_.fetch(memory_, page(4), 4), nullptr);
    batch_.erase_unread(pages);
    EXPECT_EQ(list(pages), (std::vector<Address>{page(2), page(4)}));
    batch_.reset();
    ASSERT_TRUE(batch_.add_pages(pages));
    EXPECT_EQ(batch_.run(memory_), 0U);
}

}  // namespace
}  // namespace echion
