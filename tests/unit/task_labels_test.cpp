#include "sampling/task_labels.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "code/code_registry.h"
#include "recorded_stream.h"

namespace echion::sampling {
namespace {

constexpr std::uint32_t kUnknown = code::CodeRegistry::kUnknownCode;

class TaskLabelsTest : public testing::Test {
  protected:
    void SetUp() override { labels_.begin_tick(); }

    Address label(std::string_view name) { return labels_.frame_of(name).code; }
    std::uint32_t find(Address label) { return labels_.find_id(stream_.ticks(), label); }
    std::uint32_t find(std::string_view name) { return find(label(name)); }
    /// The other end reads what it is told, and another tick begins.
    void next_tick() {
        stream_.end_tick();
        stream_.begin_tick();
        labels_.begin_tick();
    }
    /// Adds names that nothing else has.
    void add(std::size_t count, std::size_t name_bytes = 0) {
        for (std::size_t i = 0; i < count; ++i) {
            std::string name = "more " + std::to_string(added_++);
            name.resize(std::max(name.size(), name_bytes), '.');
            label(name);
        }
    }

    test::RecordedStream stream_;
    TaskLabels labels_;

  private:
    std::size_t added_ = 0;
};

TEST_F(TaskLabelsTest, ANameHasALabelOfItsOwnThatStays) {
    const Address one = label("one");
    const Address two = label("two");
    EXPECT_NE(one, two);
    EXPECT_EQ(labels_.frame_of("one").offset, 0);
    EXPECT_EQ(label("one"), one);
    next_tick();
    EXPECT_EQ(label("two"), two);
    EXPECT_EQ(label("one"), one);
    EXPECT_NE(label(""), one);
    EXPECT_EQ(label(""), label(""));
}

TEST_F(TaskLabelsTest, ALabelIsToldFromACodeObject) {
    for (const std::string_view name : {"one", "two", ""}) {
        EXPECT_TRUE(TaskLabels::is_label(label(name)));
        EXPECT_TRUE(TaskLabels::is_label_id(find(name)));
    }
    EXPECT_FALSE(TaskLabels::is_label(Address(0x7fff0010)));
    EXPECT_FALSE(TaskLabels::is_label_id(kUnknown));
    EXPECT_FALSE(TaskLabels::is_label_id(code::CodeRegistry::kMaxIds - 1));
}

TEST_F(TaskLabelsTest, TheStreamIsToldOfALabelOnce) {
    const std::uint32_t one = find("one");
    const std::uint32_t two = find("two");
    EXPECT_NE(one, two);
    EXPECT_EQ(find("one"), one);
    const std::size_t before = stream_.definitions;
    next_tick();
    EXPECT_EQ(stream_.definitions, before + 2);
    EXPECT_EQ(stream_.codes[one], "one");
    EXPECT_EQ(stream_.codes[two], "two");
    EXPECT_EQ(find("one"), one);
    EXPECT_EQ(find("two"), two);
    next_tick();
    EXPECT_EQ(stream_.definitions, before + 2);
}

TEST_F(TaskLabelsTest, ALabelThatNobodyAsksForIsNotTold) {
    label("one");
    const std::size_t before = stream_.definitions;
    next_tick();
    EXPECT_EQ(stream_.definitions, before);
}

TEST_F(TaskLabelsTest, WhatWasToldInAVoidTickIsToldAgain) {
    const std::uint32_t one = find("one");
    next_tick();
    const std::size_t before = stream_.definitions;
    const std::uint32_t two = find("two");
    labels_.forget_tick();
    EXPECT_EQ(find("one"), one);
    EXPECT_EQ(find("two"), two);
    next_tick();
    EXPECT_EQ(stream_.definitions, before + 2) << "\"two\" twice, \"one\" was told before";
    labels_.forget_tick();
    EXPECT_EQ(find("two"), two);
    next_tick();
    EXPECT_EQ(stream_.definitions, before + 2);
}

TEST_F(TaskLabelsTest, ALongNameIsCut) {
    const std::string name(TaskLabels::kMaxNameBytes + 1, 'x');
    const std::uint32_t id = find(name);
    next_tick();
    EXPECT_EQ(stream_.codes[id], name.substr(1));
    EXPECT_EQ(find(name.substr(1)), id);
    EXPECT_NE(find(name.substr(2)), id);
}

TEST_F(TaskLabelsTest, WhatIsNoLabelIsUnknown) {
    label("one");
    for (const std::uintptr_t label : {std::uintptr_t{1}, std::uintptr_t{5}, UINTPTR_MAX}) {
        EXPECT_EQ(find(Address(label)), kUnknown) << label;
    }
}

TEST_F(TaskLabelsTest, AFullTableStartsOverWithTheNextTick) {
    const std::uint32_t one = find("one");
    add(TaskLabels::kMaxLabels / 4 * 3 - 1);
    next_tick();
    EXPECT_EQ(labels_.numbering(), 0U);
    EXPECT_EQ(find("one"), one);
    find("two");
    EXPECT_EQ(labels_.numbering(), 0U);
    next_tick();
    EXPECT_EQ(labels_.numbering(), 1U);
    EXPECT_EQ(labels_.overflows(), 0U);
    // The ids are given anew, and told.
    const std::uint32_t three = find("three");
    EXPECT_EQ(three, one);
    EXPECT_NE(find("one"), one);
    next_tick();
    EXPECT_EQ(stream_.codes[three], "three");
    EXPECT_EQ(labels_.numbering(), 1U);
}

TEST_F(TaskLabelsTest, NamesThatFindNoRoomAreUnknown) {
    add(TaskLabels::kMaxLabels - 1);
    const Address last = label("last");
    EXPECT_EQ(labels_.overflows(), 0U);
    const Address none = label("none");
    EXPECT_EQ(labels_.overflows(), 1U);
    EXPECT_TRUE(TaskLabels::is_label(none));
    EXPECT_EQ(find(none), kUnknown);
    EXPECT_EQ(label("none"), none);
    EXPECT_EQ(labels_.overflows(), 2U);
    EXPECT_EQ(label("last"), last);
    EXPECT_TRUE(TaskLabels::is_label_id(find(last)));
    next_tick();
    EXPECT_NE(find("none"), kUnknown);
    EXPECT_EQ(labels_.overflows(), 2U);
}

TEST_F(TaskLabelsTest, ThereIsABoundOnTextToo) {
    constexpr std::size_t kMaxTextBytes = std::size_t{1} << 23;
    add(kMaxTextBytes / TaskLabels::kMaxNameBytes, TaskLabels::kMaxNameBytes);
    EXPECT_EQ(labels_.overflows(), 0U);
    label("none");
    EXPECT_EQ(labels_.overflows(), 1U);
    next_tick();
    EXPECT_EQ(labels_.numbering(), 1U);
    EXPECT_NE(find("none"), kUnknown);
}

}  // namespace
}  // namespace echion::sampling
