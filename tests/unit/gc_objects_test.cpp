#include "cpython/gc_objects.h"

#include <gtest/gtest.h>

#include <vector>

#include "fake_greenlets.h"
#include "rows.h"
#include "test_memory.h"

namespace echion::cpython {
namespace {

using Objects = std::vector<Address>;

/// Every test runs for the layout of every version.
class GcObjectsOf : public testing::TestWithParam<int> {
  protected:
    void SetUp() override {
        memory_.fill_gaps();
        for (std::size_t i = 0; i < 6; ++i) {
            objects_.push_back(collector_.allocate(64));
            memory_.write(objects_[i] + at(layout_.object.ob_type), Address(0x100 * (i + 1)));
        }
        pages_ = std::move(*PageCache::make(64));
    }
    bool begin() {
        return walk_.begin(memory_, layout_, collector_.runtime, collector_.interpreter)
            .has_value();
    }
    /// All that a whole walk visits.
    Objects visit() {
        EXPECT_TRUE(begin());
        Objects found;
        const auto note = [&](const GcObjects::Object& object) { found.push_back(object.object); };
        for (int i = 0; i < 100 && walk_.walk(memory_, 100, note); ++i) {
        }
        EXPECT_FALSE(walk_.walk(memory_, 1, note));
        return found;
    }

    const Layout& layout_ = test::row_of(GetParam());
    test::TestMemory memory_;
    test::FakeCollector collector_{memory_, layout_};
    Objects objects_;
    PageCache pages_;
    GcObjects walk_{pages_};
};

TEST_P(GcObjectsOf, ListsAreWalkedFromTheYoungest) {
    collector_.fill(0, {objects_[3]});
    collector_.fill(1, {objects_[4], objects_[1]});
    collector_.fill(2, {objects_[0]});
    collector_.fill(3, {objects_[5]});
    EXPECT_EQ(visit(), (Objects{objects_[3], objects_[4], objects_[1], objects_[0], objects_[5]}));
    EXPECT_TRUE(walk_.is_whole());
}

TEST_P(GcObjectsOf, TypesAreTold) {
    collector_.fill(2, {objects_[2]});
    ASSERT_TRUE(begin());
    Address type;
    walk_.walk(memory_, 100, [&](const GcObjects::Object& object) { type = object.type; });
    EXPECT_EQ(type, Address(0x300));
}

TEST_P(GcObjectsOf, AWalkGoesOnWhereItStopped) {
    collector_.fill(0, {objects_[0], objects_[1]});
    collector_.fill(1, {objects_[2]});
    ASSERT_TRUE(begin());
    Objects found;
    int parts = 0;
    while (walk_.walk(memory_, 1,
                      [&](const GcObjects::Object& one) { found.push_back(one.object); })) {
        ASSERT_LT(++parts, 20);
    }
    EXPECT_EQ(found, (Objects{objects_[0], objects_[1], objects_[2]}));
    EXPECT_TRUE(walk_.is_whole());
}

TEST_P(GcObjectsOf, AnObjectThatDoesNotLeadBackEndsItsList) {
    collector_.fill(0, {objects_[0], objects_[1], objects_[2]});
    collector_.fill(1, {objects_[3]});
    memory_.write(collector_.node(objects_[1]) + sizeof(void*), objects_[5]);
    const Objects found = visit();
    EXPECT_EQ(found.back(), objects_[3]);
    EXPECT_EQ(std::count(found.begin(), found.end(), objects_[2]), 0);
    EXPECT_FALSE(walk_.is_whole());
}

TEST_P(GcObjectsOf, ARingEnds) {
    collector_.fill(0, {objects_[0], objects_[1], objects_[2]});
    memory_.write(collector_.node(objects_[2]), collector_.node(objects_[1]));
    memory_.write(collector_.node(objects_[1]) + sizeof(void*), collector_.node(objects_[2]));
    memory_.write(collector_.head(0), collector_.node(objects_[1]));
    memory_.write(collector_.node(objects_[1]) + sizeof(void*), collector_.head(0));
    visit();
    EXPECT_FALSE(walk_.is_whole());
    // One whose objects all lead back.
    memory_.write(collector_.node(objects_[1]) + sizeof(void*), collector_.node(objects_[2]));
    memory_.write(collector_.node(objects_[0]), collector_.node(objects_[1]));
    visit();
    EXPECT_FALSE(walk_.is_whole());
}

TEST_P(GcObjectsOf, AnObjectThatHasMovedEndsNothing) {
    collector_.fill(0, {objects_[0], objects_[1]});
    collector_.fill(1, {objects_[2]});
    ASSERT_TRUE(begin());
    Objects found;
    const auto note = [&](const GcObjects::Object& one) { found.push_back(one.object); };
    ASSERT_TRUE(walk_.walk(memory_, 1, note));
    // The youngest become older meanwhile.
    collector_.fill(0, {});
    collector_.fill(1, {objects_[2], objects_[0], objects_[1]});
    while (walk_.walk(memory_, 100, note)) {
    }
    for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_NE(std::count(found.begin(), found.end(), objects_[i]), 0) << i;
    }
}

TEST_P(GcObjectsOf, WhileTheCollectorWorksObjectsMayBeMissing) {
    collector_.fill(0, {objects_[0]});
    memory_.write(collector_.collecting, std::int32_t{1});
    EXPECT_EQ(visit(), Objects{objects_[0]});
    EXPECT_FALSE(walk_.is_whole());
}

TEST_P(GcObjectsOf, AListThatCannotBeReadIsLeftOut) {
    collector_.fill(1, {objects_[1]});
    memory_.write(collector_.head(0), Address());
    EXPECT_EQ(visit(), Objects{objects_[1]});
    EXPECT_FALSE(walk_.is_whole());
}

INSTANTIATE_TEST_SUITE_P(EachVersion, GcObjectsOf, testing::Range(8, 16), test::name_of_row);

TEST(GcObjects, AFreeThreadedBuildHasNoLists) {
    test::TestMemory memory;
    PageCache pages = std::move(*PageCache::make(8));
    GcObjects walk(pages);
    EXPECT_FALSE(walk.begin(memory, test::row_of(test::kFreeThreaded + 14), {}, {}));
}

}  // namespace
}  // namespace echion::cpython
