#include "memory/page_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <initializer_list>
#include <utility>
#include <vector>

#include "test_memory.h"

namespace echion {
namespace {

constexpr std::size_t kMaxPages = 4;
constexpr std::size_t kMaxReads = 100;

Address page(std::size_t number) { return Address(0x100000 + number * kPageBytes); }

class PageCacheTest : public testing::Test {
  protected:
    void SetUp() override {
        auto made = PageCache::make(kMaxPages);
        ASSERT_TRUE(made.has_value());
        cache_ = std::move(*made);
    }

    /// Maps pages as one region, and writes into the first word of each which page it is.
    void map_pages(std::size_t first, std::size_t count) {
        memory_.map(page(first), count * kPageBytes);
        for (std::size_t i = first; i < first + count; ++i) {
            ASSERT_TRUE(memory_.write(page(i), static_cast<std::uint32_t>(i)));
        }
    }
    std::uint32_t number_at(Address place) {
        const auto number = reader_.read_value<std::uint32_t>(place);
        EXPECT_TRUE(number.has_value());
        return number ? *number : 0;
    }

    test::TestMemory memory_;
    PageCache cache_;
    CachedReader reader_{cache_, memory_, kMaxReads};
};

TEST_F(PageCacheTest, APageIsCopiedOnce) {
    map_pages(1, 2);
    EXPECT_EQ(number_at(page(1)), 1U);
    EXPECT_EQ(number_at(page(2)), 2U);
    ASSERT_EQ(memory_.calls, 2U);
    EXPECT_EQ(memory_.bytes, 2 * kPageBytes);
    EXPECT_EQ(cache_.page_count(), 2U);
    EXPECT_EQ(number_at(page(1)), 1U);
    EXPECT_EQ(number_at(page(1) + 8), 0U);
    EXPECT_EQ(number_at(page(2)), 2U);
    EXPECT_EQ(memory_.calls, 2U);
}

TEST_F(PageCacheTest, ACopyIsAsOldAsTheFirstUseOfItsPage) {
    map_pages(1, 1);
    EXPECT_EQ(number_at(page(1)), 1U);
    ASSERT_TRUE(memory_.write(page(1), std::uint32_t{7}));
    EXPECT_EQ(number_at(page(1)), 1U);
}

TEST_F(PageCacheTest, BeginForgetsAllPages) {
    map_pages(1, kMaxPages);
    for (std::size_t i = 1; i <= kMaxPages; ++i) {
        EXPECT_EQ(number_at(page(i)), i);
    }
    ASSERT_TRUE(memory_.write(page(1), std::uint32_t{7}));
    ASSERT_TRUE(memory_.write(page(kMaxPages), std::uint32_t{8}));
    cache_.begin();
    EXPECT_EQ(cache_.page_count(), 0U);
    // The page that was used last, too.
    EXPECT_EQ(number_at(page(kMaxPages)), 8U);
    EXPECT_EQ(number_at(page(1)), 7U);
    EXPECT_EQ(number_at(page(2)), 2U);
    EXPECT_EQ(cache_.page_count(), 3U);
}

TEST_F(PageCacheTest, ARangeOverSeveralPagesIsPutTogether) {
    map_pages(1, 3);
    ASSERT_TRUE(memory_.write(page(2) - 4, std::uint32_t{0x11111111}));
    ASSERT_TRUE(memory_.write(page(3) - 4, std::uint32_t{0x33333333}));
    std::vector<std::byte> copy(kPageBytes + 8);
    ASSERT_TRUE(reader_.read_bytes(page(2) - 4, copy.data(), copy.size()).has_value());
    EXPECT_EQ(load<std::uint32_t>(copy.data(), 0), 0x11111111U);
    EXPECT_EQ(load<std::uint32_t>(copy.data(), 4), 2U);
    EXPECT_EQ(load<std::uint32_t>(copy.data(), kPageBytes), 0x33333333U);
    EXPECT_EQ(load<std::uint32_t>(copy.data(), kPageBytes + 4), 3U);
    EXPECT_EQ(cache_.page_count(), 3U);
}

TEST_F(PageCacheTest, WhatIsNotAWholePageIsReadDirectly) {
    memory_.map(page(1) + 64, 64);
    ASSERT_TRUE(memory_.write(page(1) + 64, std::uint32_t{5}));
    EXPECT_EQ(number_at(page(1) + 64), 5U);
    EXPECT_EQ(cache_.page_count(), 0U);
    ASSERT_TRUE(memory_.write(page(1) + 64, std::uint32_t{6}));
    EXPECT_EQ(number_at(page(1) + 64), 6U);
    EXPECT_FALSE(reader_.read_value<std::uint32_t>(page(1) + 60).has_value());
    EXPECT_FALSE(reader_.read_value<std::uint32_t>(page(1) + 126).has_value());
}

TEST_F(PageCacheTest, ARangeIntoAPageThatIsNotMappedIsRefused) {
    map_pages(1, 1);
    map_pages(3, 1);
    EXPECT_FALSE(reader_.read_value<std::uint32_t>(page(2) - 2).has_value());
    EXPECT_FALSE(reader_.read_value<std::uint32_t>(page(3) - 2).has_value());
    EXPECT_EQ(number_at(page(1)), 1U);
    EXPECT_EQ(number_at(page(3)), 3U);
}

TEST_F(PageCacheTest, WhatHasNoRoomIsReadDirectly) {
    map_pages(1, kMaxPages + 2);
    for (std::size_t i = 1; i <= kMaxPages + 2; ++i) {
        EXPECT_EQ(number_at(page(i)), i);
    }
    EXPECT_EQ(cache_.page_count(), kMaxPages);
    const std::size_t bytes = memory_.bytes;
    EXPECT_EQ(number_at(page(kMaxPages)), kMaxPages);
    EXPECT_EQ(memory_.bytes, bytes);
    // Half of it in the cache.
    ASSERT_TRUE(memory_.write(page(kMaxPages + 1), std::uint32_t{9}));
    std::uint32_t words[2];
    ASSERT_TRUE(reader_.read_bytes(page(kMaxPages + 1) - 4, words, sizeof(words)).has_value());
    EXPECT_EQ(words[1], 9U);
    EXPECT_EQ(memory_.bytes, bytes + sizeof(words));
}

TEST_F(PageCacheTest, CountsTheRequestsBeforeTheFirstThatFails) {
    map_pages(1, 1);
    std::uint32_t first = 0;
    std::uint32_t second = 0;
    std::uint32_t third = 0;
    const ReadRequest requests[] = {
        {page(1), &first, 4}, {page(2), &second, 4}, {page(1), &third, 4}};
    EXPECT_EQ(reader_.read(requests), 1U);
    EXPECT_EQ(first, 1U);
    EXPECT_EQ(third, 0U);
}

TEST_F(PageCacheTest, NeitherNullNorTheEndOfTheAddressSpaceIsAPage) {
    EXPECT_FALSE(reader_.read_value<std::uint32_t>(Address()).has_value());
    EXPECT_FALSE(reader_.read_value<std::uint32_t>(Address(8)).has_value());
    EXPECT_FALSE(reader_.read_value<std::uint64_t>(Address(UINTPTR_MAX - 3)).has_value());
    EXPECT_EQ(cache_.page_count(), 0U);
    EXPECT_TRUE(reader_.read_bytes(Address(), nullptr, 0).has_value());
    map_pages(1, 1);
    EXPECT_EQ(number_at(page(1)), 1U);
    cache_.begin();
    EXPECT_FALSE(reader_.read_value<std::uint32_t>(Address(8)).has_value())
        << "what was read before is not the first page";
}

TEST_F(PageCacheTest, NothingIsReadBeyondTheBoundOnReads) {
    map_pages(1, 1);
    CachedReader reader(cache_, memory_, 3);
    std::uint32_t word = 0;
    const ReadRequest two[] = {{page(1), &word, 4}, {page(1) + 8, &word, 4}};
    EXPECT_EQ(reader.read(two), 2U);
    EXPECT_FALSE(reader.is_over());
    EXPECT_EQ(reader.read(two), 1U);
    EXPECT_TRUE(reader.is_over());
    EXPECT_FALSE(reader.read_value<std::uint32_t>(page(1)).has_value());
}

/// Looks that copy ahead what the one before has used.
class PagesAhead : public PageCacheTest {
  protected:
    /// Uses pages, in that order.
    void use(std::initializer_list<std::size_t> numbers) {
        for (const std::size_t number : numbers) {
            EXPECT_EQ(number_at(page(number)), number);
        }
    }
    /// How many pages have been copied since `bytes` were.
    std::size_t copied_since(std::size_t bytes) const {
        return (memory_.bytes - bytes) / kPageBytes;
    }
};

TEST_F(PagesAhead, UsedPagesAreCopiedInOneRead) {
    map_pages(1, kMaxPages);
    use({3, 1, 4});
    const std::size_t calls = memory_.calls;
    cache_.begin_ahead(memory_, kMaxPages);
    EXPECT_EQ(memory_.calls, calls + 1);
    EXPECT_EQ(cache_.page_count(), 3U);
    use({1, 3, 4});
    EXPECT_EQ(memory_.calls, calls + 1);
    use({2});
    EXPECT_EQ(memory_.calls, calls + 2);
}

TEST_F(PagesAhead, ACopyIsAsOldAsTheBeginningOfTheLook) {
    map_pages(1, 1);
    use({1});
    ASSERT_TRUE(memory_.write(page(1), std::uint32_t{7}));
    cache_.begin_ahead(memory_, kMaxPages);
    ASSERT_TRUE(memory_.write(page(1), std::uint32_t{8}));
    EXPECT_EQ(number_at(page(1)), 7U);
}

TEST_F(PagesAhead, ManyPagesAreCopiedInFewReads) {
    constexpr std::size_t kMany = 150;
    cache_ = std::move(*PageCache::make(kMany));
    map_pages(1, kMany);
    CachedReader reader(cache_, memory_, kMany);
    for (std::size_t i = 1; i <= kMany; ++i) {
        ASSERT_TRUE(reader.read_value<std::uint32_t>(page(i)).has_value());
    }
    const std::size_t calls = memory_.calls;
    cache_.begin_ahead(memory_, kMany);
    EXPECT_EQ(memory_.calls, calls + 3);
    EXPECT_EQ(cache_.page_count(), kMany);
    for (std::size_t i = 1; i <= kMany; ++i) {
        const std::byte* copy = cache_.find(memory_, page(i));
        ASSERT_NE(copy, nullptr);
        EXPECT_EQ(load<std::uint32_t>(copy, 0), i);
    }
    EXPECT_EQ(memory_.calls, calls + 3);
}

TEST_F(PagesAhead, PagesThatCannotBeReadAnyMoreLeaveNoGap) {
    for (const std::vector<std::size_t>& gone :
         {std::vector<std::size_t>{1}, {2}, {4}, {1, 2}, {2, 3}, {1, 4}, {1, 2, 3, 4}}) {
        cache_.begin();
        for (std::size_t i = 1; i <= kMaxPages; ++i) {
            map_pages(i, 1);
        }
        use({1, 2, 3, 4});
        for (const std::size_t number : gone) {
            memory_.unmap(page(number));
        }
        cache_.begin_ahead(memory_, kMaxPages);
        EXPECT_EQ(cache_.page_count(), kMaxPages - gone.size());
        const std::size_t bytes = memory_.bytes;
        for (std::size_t i = 1; i <= kMaxPages; ++i) {
            if (std::find(gone.begin(), gone.end(), i) == gone.end()) {
                use({i});
            } else {
                EXPECT_EQ(cache_.find(memory_, page(i)), nullptr) << i;
            }
        }
        EXPECT_EQ(memory_.bytes, bytes);
        // There is room for as many others.
        for (std::size_t i = 0; i < gone.size(); ++i) {
            map_pages(10 + i, 1);
            use({10 + i});
        }
        EXPECT_EQ(cache_.page_count(), kMaxPages);
        cache_.begin();
    }
}

TEST_F(PagesAhead, PagesThatTheLastLookDidNotUseAreDropped) {
    map_pages(1, kMaxPages);
    use({1, 2, 3});
    cache_.begin_ahead(memory_, kMaxPages);
    ASSERT_EQ(cache_.page_count(), 3U);
    use({3, 1});
    std::size_t bytes = memory_.bytes;
    cache_.begin_ahead(memory_, kMaxPages);
    EXPECT_EQ(cache_.page_count(), 2U);
    EXPECT_EQ(copied_since(bytes), 2U);
    use({1, 3});
    EXPECT_EQ(copied_since(bytes), 2U);
    use({2});
    EXPECT_EQ(copied_since(bytes), 3U);
    // Nothing was used of what is copied now: nothing is copied then.
    cache_.begin_ahead(memory_, kMaxPages);
    EXPECT_EQ(cache_.page_count(), 3U);
    bytes = memory_.bytes;
    cache_.begin_ahead(memory_, kMaxPages);
    EXPECT_EQ(cache_.page_count(), 0U);
    EXPECT_EQ(memory_.bytes, bytes);
}

TEST_F(PagesAhead, NoMorePagesAreCopiedThanTheBound) {
    map_pages(1, kMaxPages);
    use({4, 3, 2, 1});
    const std::size_t bytes = memory_.bytes;
    cache_.begin_ahead(memory_, 2);
    EXPECT_EQ(cache_.page_count(), 2U);
    EXPECT_EQ(copied_since(bytes), 2U);
    use({4, 3});
    EXPECT_EQ(copied_since(bytes), 2U);
    use({2, 1});
    EXPECT_EQ(copied_since(bytes), 4U);
    cache_.begin_ahead(memory_, 0);
    EXPECT_EQ(cache_.page_count(), 0U);
    EXPECT_EQ(copied_since(bytes), 4U);
    use({1});
}

}  // namespace
}  // namespace echion
