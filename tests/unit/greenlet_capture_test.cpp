#include "capture/greenlet_capture.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "fake_greenlets.h"
#include "rows.h"
#include "test_memory.h"

namespace echion::capture {
namespace {

using cpython::at;
using Kind = test::FakeGreenlets::Kind;
using Fields = test::FakeGreenlets::Fields;

constexpr std::size_t kMaxFrames = 8;

/// Every test runs for the layout of every version of CPython, and for each layout of greenlet's.
class GreenletCaptureOf : public testing::TestWithParam<std::tuple<int, Kind>> {
  protected:
    void SetUp() override {
        memory_.fill_gaps();
        make_.set_current({}, {});
        dict_ = *memory_.read_pointer(make_.state + at(layout_.thread_state.dict));
        main_ = make_.make_greenlet({});
        set_main({});
    }
    /// `frame`: null while it runs.
    void set_main(Address frame) {
        make_.write(main_, {.top_frame = frame, .exceptions = exceptions(), .dict = dict_});
    }
    [[nodiscard]] Address exceptions() const { return make_.exceptions_of(make_.state); }
    Fields suspended(Address frame) {
        return {.parent = main_,
                .main = main_,
                .top_frame = frame,
                .exceptions = exceptions(),
                .dict = dict_};
    }
    Fields not_started(Address parent) {
        return {.parent = parent,
                .run = make_.make.make_function("work"),
                .start = Address(),
                .stop = Address()};
    }
    void find(const std::vector<Address>& greenlets) {
        std::vector<Address> all{main_};
        all.insert(all.end(), greenlets.begin(), greenlets.end());
        make_.collector.fill(2, all);
        capture_.begin();
        capture_.find(memory_, layout_,
                      {make_.collector.runtime, make_.collector.interpreter, make_.modules});
    }
    GreenletCapture::Outcome read(Address state = {}) {
        store_.clear();
        return capture_.read(memory_, layout_, {make_.modules, state ? state : make_.state, 5},
                             kMaxFrames, store_);
    }
    const CapturedTask& task_of(Address greenlet) {
        static const CapturedTask kMissing{};
        for (std::size_t i = 0; i < store_.count(); ++i) {
            if (store_.task(i).task == greenlet) {
                return const_cast<const TaskStore&>(store_).task(i);
            }
        }
        ADD_FAILURE() << "no such greenlet";
        return kMissing;
    }
    std::vector<Address> codes(Address greenlet) {
        std::vector<Address> result;
        for (const cpython::RawFrame& frame : store_.frames(task_of(greenlet))) {
            result.push_back(frame.code);
        }
        return result;
    }
    void run(Address greenlet) { make_.set_current(main_, greenlet); }

    const cpython::Layout& layout_ = test::row_of(std::get<0>(GetParam()));
    const Kind kind_ = std::get<1>(GetParam());
    test::TestMemory memory_;
    test::FakeGreenlets make_{memory_, layout_, kind_};
    Address main_, dict_;
    GreenletCapture capture_;
    TaskStore store_;
};

TEST_P(GreenletCaptureOf, EachIsToldWithItsStateAndParent) {
    const auto inner = make_.make_frame({});
    const auto of_main = make_.make_frame({});
    const Address one = make_.make_greenlet(suspended(inner.object));
    const Address two = make_.make_greenlet(suspended({}));
    const Address three = make_.make_greenlet(not_started(one));
    Fields ended = suspended({});
    ended.start = Address();
    const Address four = make_.make_greenlet(ended);
    set_main(of_main.object);
    run(two);
    find({one, two, three, four});
    EXPECT_TRUE(capture_.found().is_there && capture_.found().is_whole);
    EXPECT_EQ(capture_.found().unreadable + capture_.found().unplaced, 0U);
    EXPECT_TRUE(capture_.has_greenlets(memory_, layout_, make_.state));
    const auto outcome = read();
    EXPECT_FALSE(outcome.is_cut);
    ASSERT_EQ(outcome.count, 4U);
    EXPECT_EQ(task_of(main_).kind, TaskKind::kMainGreenlet);
    EXPECT_EQ(task_of(main_).state, TaskState::kSuspended);
    EXPECT_EQ(task_of(main_).parent, CapturedTask::kNone);
    EXPECT_EQ(codes(main_), std::vector<Address>{of_main.code});
    EXPECT_EQ(task_of(one).state, TaskState::kSuspended);
    EXPECT_EQ(codes(one), std::vector<Address>{inner.code});
    EXPECT_EQ(task_of(two).state, TaskState::kRunning);
    EXPECT_EQ(task_of(two).frame_count, 5U) << "the thread's";
    EXPECT_EQ(task_of(three).state, TaskState::kNotStarted);
    EXPECT_EQ(store_.text(task_of(three).function), "work");
    EXPECT_EQ(store_.task(task_of(three).parent).task, one);
    EXPECT_EQ(store_.text(task_of(one).type_name), "greenlet");
}

TEST_P(GreenletCaptureOf, FramesAreFollowedToTheRoot) {
    const auto root = make_.make_frame({});
    auto previous = root.place;
    if (cpython::has(layout_.frame.owner_without_code)) {
        previous = make_.make_frame(root.place, false).place;
    }
    const auto newest = make_.make_frame(previous);
    const Address one = make_.make_greenlet(suspended(newest.object));
    run(main_);
    find({one});
    ASSERT_EQ(read().count, 2U);
    EXPECT_EQ(codes(one), (std::vector<Address>{newest.code, root.code}));
    EXPECT_FALSE(task_of(one).is_broken || task_of(one).is_truncated);
    EXPECT_EQ(task_of(main_).state, TaskState::kRunning);
}

TEST_P(GreenletCaptureOf, AFrameOnTheStackThatWasCopiedAwayIsFoundInTheCopy) {
    if (kind_ == Kind::kFlat || !cpython::has(layout_.frame.owner_without_code)) {
        return;  // no frames are on the C stack
    }
    const auto root = make_.make_frame({});
    const Address copy = memory_.allocate(1024);
    make_.write_frame(copy + 128, root.code, root.place, false);
    Fields fields = suspended(make_.make_frame(Address(0x7000'0080)).object);
    fields.start = Address(0x7000'0000);
    fields.stop = Address(0x7000'1000);
    fields.copy = copy;
    fields.saved = 1024;
    const Address one = make_.make_greenlet(fields);
    run(main_);
    find({one});
    ASSERT_EQ(read().count, 2U);
    EXPECT_EQ(codes(one).size(), 2U);
    EXPECT_FALSE(task_of(one).is_broken);
}

TEST_P(GreenletCaptureOf, ARingOfFramesIsCut) {
    const auto frame = make_.make_frame({});
    make_.write_frame(frame.place, frame.code, frame.place, true);
    const Address one = make_.make_greenlet(suspended(frame.object));
    run(main_);
    find({one});
    ASSERT_EQ(read().count, 2U);
    EXPECT_EQ(codes(one).size(), kMaxFrames);
    EXPECT_TRUE(task_of(one).is_truncated);
}

TEST_P(GreenletCaptureOf, AnotherThreadsAreNot) {
    const Address other_state = make_.make_state();
    Fields fields = suspended(make_.make_frame({}).object);
    if (kind_ == Kind::kFlat) {
        fields.dict = *memory_.read_pointer(other_state + at(layout_.thread_state.dict));
    } else {
        fields.exceptions = make_.make_exception(make_.exceptions_of(other_state));
    }
    const Address one = make_.make_greenlet(suspended(make_.make_frame({}).object));
    const Address other = make_.make_greenlet(fields);
    run(main_);
    find({one, other});
    EXPECT_EQ(read().count, 2U);
    EXPECT_EQ(task_of(one).state, TaskState::kSuspended);
    EXPECT_FALSE(capture_.has_greenlets(memory_, layout_, make_.make_state()));
}

TEST_P(GreenletCaptureOf, ARingOfExceptionsShowsNoThread) {
    if (kind_ == Kind::kFlat) {
        return;  // its thread is shown by a dict
    }
    const Address ring = make_.make_exception({});
    memory_.write(ring + at(layout_.exception_item.previous), ring);
    Fields fields = suspended(make_.make_frame({}).object);
    fields.exceptions = ring;
    set_main({});
    make_.write(main_, {});
    const Address one = make_.make_greenlet(fields);
    run(main_);
    find({one});
    EXPECT_EQ(capture_.found().unplaced, 1U);
    EXPECT_EQ(read().count, 0U);
}

TEST_P(GreenletCaptureOf, AMainGreenletAloneIsNotTold) {
    run(main_);
    set_main(make_.make_frame({}).object);
    find({});
    EXPECT_EQ(capture_.found().unplaced, 0U);
    EXPECT_EQ(read().count, 0U);
}

TEST_P(GreenletCaptureOf, GreenletsThatDisagreeAreCounted) {
    Fields fields = suspended(make_.make.make_object("list", {{}, {}, {}, {}, {}, {}, {}, {}}));
    const Address one = make_.make_greenlet(fields);
    run(main_);
    find({one});
    EXPECT_EQ(capture_.found().unreadable, 2U);
    EXPECT_EQ(read().count, 0U);
}

TEST_P(GreenletCaptureOf, WithoutThePackageNothingIsRead) {
    make_.modules = make_.make.objects().make_dict({});
    find({});
    EXPECT_FALSE(capture_.found().is_there);
    EXPECT_EQ(read().count, 0U);
}

TEST_P(GreenletCaptureOf, AGreenletThatAnotherWaitsForHasItAsAWaiter) {
    const std::size_t own_words = kind_ == Kind::kFlat ? 17 : 3;
    const Address derived = make_.make.type(
        "gevent._gevent_cgreenlet.Greenlet",
        layout_.object.size + static_cast<std::intptr_t>((own_words + 1) * sizeof(void*)));
    memory_.write(derived + at(layout_.type.tp_base), make_.type);
    const Address target = make_.make_greenlet(suspended(make_.make_frame({}).object), derived);
    const Address waiter = make_.make_greenlet(suspended(make_.make_frame({}).object), derived);
    const Address links =
        make_.make.make_list({make_.make.make_builtin("switch", waiter), make_.make.none});
    memory_.write(target + at(layout_.object.size) + own_words * sizeof(void*), links);
    run(main_);
    find({target, waiter});
    ASSERT_EQ(read().count, 3U);
    const auto waiters = store_.waiters(task_of(target));
    ASSERT_EQ(waiters.size(), 1U);
    EXPECT_EQ(store_.task(waiters[0]).task, waiter);
    EXPECT_EQ(task_of(waiter).waits_for_count, 1U);
    EXPECT_EQ(store_.task(task_of(waiter).waits_for).task, target);
    EXPECT_EQ(store_.waiters(task_of(waiter)).size(), 0U);
}

std::string name_of(const testing::TestParamInfo<std::tuple<int, Kind>>& info) {
    constexpr const char* kNames[] = {"Flat", "WithoutSelf", "WithSelf"};
    return std::to_string(std::get<0>(info.param)) +
           kNames[static_cast<int>(std::get<1>(info.param))];
}

INSTANTIATE_TEST_SUITE_P(EachVersion, GreenletCaptureOf,
                         testing::Combine(testing::Range(8, 16),
                                          testing::Values(Kind::kFlat, Kind::kWithoutSelf,
                                                          Kind::kWithSelf)),
                         name_of);

}  // namespace
}  // namespace echion::capture
