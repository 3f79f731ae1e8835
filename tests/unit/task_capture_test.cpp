#include "capture/task_capture.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "fake_asyncio.h"
#include "rows.h"
#include "test_memory.h"

namespace echion::capture {
namespace {

using cpython::at;
using Indices = std::vector<std::uint32_t>;
using Coroutine = test::FakeAsyncio::Coroutine;
using State = cpython::CoroutineState;

constexpr std::size_t kMaxFrames = 8;

/// Every test runs for the layout of every version.
class TaskCaptureOf : public testing::TestWithParam<int> {
  protected:
    Address str(std::string_view text) { return make_.objects().make_str(text); }
    Address make_task(std::string_view name, Address coro = {}) {
        return make_.make_task({.coro = coro, .name = str(name), .fut_waiter = make_.none});
    }
    Address make_task(std::string_view name, const Coroutine& coroutine) {
        return make_task(name, coroutine.object);
    }
    TaskCapture::Outcome read_loop(const test::FakeAsyncio::Loop& loop,
                                   const std::vector<Address>& frame_places = {}) {
        return capture_.read(
            memory_, layout_,
            {loop.thread.interpreter, loop.modules, loop.thread.state, frame_places}, kMaxFrames);
    }
    TaskCapture::Outcome read(const std::vector<Address>& tasks,
                              const std::vector<Address>& frame_places = {}) {
        return read_loop(make_.make_loop(tasks), frame_places);
    }
    std::string name(std::size_t task) {
        return std::string(capture_.text(capture_.task(task).name));
    }
    std::string awaited_type(std::size_t task) {
        return std::string(capture_.text(capture_.task(task).waits_for_type));
    }
    Indices waiters(std::size_t task) {
        const auto found = capture_.waiters(capture_.task(task));
        return {found.begin(), found.end()};
    }
    std::vector<Address> codes(std::size_t task) {
        std::vector<Address> result;
        for (const cpython::RawFrame& frame : capture_.frames(capture_.task(task))) {
            result.push_back(frame.code);
        }
        return result;
    }

    const cpython::Layout& layout_ = test::row_of(GetParam());
    test::TestMemory memory_;
    test::FakeAsyncio make_{memory_, layout_};
    TaskCapture capture_;
};

TEST_P(TaskCaptureOf, AThreadWithoutALoopHasNoTasks) {
    auto loop = make_.make_loop({make_task("one")});
    EXPECT_TRUE(capture_.has_loop(memory_, layout_, loop.thread.state));
    EXPECT_TRUE(read_loop(loop).has_loop);
    loop.thread = make_.make_thread(Address());
    EXPECT_FALSE(capture_.has_loop(memory_, layout_, loop.thread.state));
    const auto outcome = read_loop(loop);
    EXPECT_FALSE(outcome.has_loop);
    EXPECT_EQ(outcome.task_count, 0U);
}

TEST_P(TaskCaptureOf, ALoopWithoutTasksIsOne) {
    const auto outcome = read(std::vector<Address>{});
    EXPECT_TRUE(outcome.has_loop);
    EXPECT_EQ(outcome.task_count, 0U);
    EXPECT_FALSE(outcome.is_cut);
}

TEST_P(TaskCaptureOf, TasksAreToldWithWhatTheyWaitFor) {
    const auto inner =
        make_.make_coroutine(State::kSuspended, make_.make_future_iterator(make_.make_future()));
    const auto outer = make_.make_coroutine(State::kSuspended, inner.object);
    const Address main = make_task("main", outer);
    const Address worker = make_task("worker", make_.make_coroutine(State::kSuspended));
    const Address sleeper = make_task("sleeper", make_.make_coroutine(State::kSuspended));
    make_.await(main, worker);
    make_.await(sleeper, make_.make_future());
    const auto outcome = read({main, worker, sleeper});
    EXPECT_TRUE(outcome.has_loop);
    EXPECT_FALSE(outcome.is_cut);
    EXPECT_EQ(outcome.first_task, 0U);
    ASSERT_EQ(outcome.task_count, 3U);
    EXPECT_EQ(name(0), "main");
    EXPECT_EQ(capture_.task(0).task, main);
    EXPECT_EQ(capture_.task(0).state, TaskState::kSuspended);
    EXPECT_EQ(codes(0), (std::vector<Address>{inner.code, outer.code}));
    EXPECT_EQ(capture_.task(0).waits_for, 1U);
    EXPECT_EQ(awaited_type(0), "Task");
    EXPECT_EQ(waiters(0), Indices{});
    EXPECT_EQ(name(1), "worker");
    EXPECT_EQ(capture_.task(1).waits_for, CapturedTask::kNone);
    EXPECT_EQ(awaited_type(1), "") << "None";
    EXPECT_EQ(waiters(1), Indices{0});
    EXPECT_EQ(capture_.task(2).waits_for, CapturedTask::kNone);
    EXPECT_EQ(awaited_type(2), "Future");
}

TEST_P(TaskCaptureOf, ANameThatIsANumberIsThatOfATask) {
    const auto named = [&](Address name) { return make_.make_task({.name = name}); };
    const std::string long_name(300, 'x');
    const auto outcome =
        read({named(make_.objects().make_int(7)), named(make_.objects().make_int(UINT64_MAX)),
              named(make_.none), named({}), named(str(long_name)), named(str(""))});
    ASSERT_EQ(outcome.task_count, 6U);
    EXPECT_EQ(name(0), "Task-7");
    EXPECT_EQ(name(1), "Task-18446744073709551615");
    EXPECT_EQ(name(2), "");
    EXPECT_EQ(name(3), "");
    EXPECT_EQ(long_name.rfind(name(4), 0), 0U);
    EXPECT_GE(name(4).size(), 250U);
    EXPECT_EQ(name(5), "");
}

TEST_P(TaskCaptureOf, TheTypesNameIsThatOfTheClassAndWholeCharacters) {
    const auto awaiting = [&](std::string_view type) {
        return make_.make_task({.fut_waiter = make_.make_object(type)});
    };
    // Of 22 characters of three bytes, 21 fit.
    std::string wide;
    for (int i = 0; i < 22; ++i) {
        wide += "\xe4\xb8\x96";
    }
    std::vector<Address> tasks;
    for (const std::string& type : {std::string("app.futures.Reply"), std::string("Plain"),
                                    wide + "x", std::string("bad\xff\xfe")}) {
        tasks.push_back(awaiting(type));
    }
    ASSERT_EQ(read(tasks).task_count, tasks.size());
    EXPECT_EQ(awaited_type(0), "Reply");
    EXPECT_EQ(awaited_type(1), "Plain");
    EXPECT_EQ(awaited_type(2), wide.substr(0, 63));
    EXPECT_EQ(awaited_type(3), "bad");
}

TEST_P(TaskCaptureOf, OnlyTheLoopsOwnTasksThatAreNotDoneCountAndEachOnce) {
    const Address one = make_task("one");
    const Address done = make_.make_task({.name = str("done"), .is_done = true});
    const Address other =
        make_.make_task({.name = str("other"), .loop = make_.make_object("Loop")});
    auto loop = make_.make_loop({done, one, other});
    const Address set = make_.make_set({one, done, make_.none, Address(0x66660000)});
    loop.modules = make_.make_modules(
        {{"_eager_tasks", set}, {"_all_tasks", make_.make_weak_set({one, done, other})}});
    const auto outcome = read_loop(loop);
    EXPECT_FALSE(outcome.is_cut);
    ASSERT_EQ(outcome.task_count, 1U);
    EXPECT_EQ(name(0), "one");
}

TEST_P(TaskCaptureOf, ATaskThatRunsHasTheThreadsFramesUpToItsOwn) {
    const auto running = make_.make_coroutine(State::kExecuting);
    const auto outcome =
        read({make_task("runs", running)}, {Address(0x10), running.place, Address(0x20)});
    ASSERT_EQ(outcome.task_count, 1U);
    EXPECT_EQ(capture_.task(0).state, TaskState::kRunning);
    EXPECT_EQ(capture_.task(0).first_frame, 0U);
    EXPECT_EQ(capture_.task(0).frame_count, 2U);
}

TEST_P(TaskCaptureOf, ATaskThatRunsInsideAnotherHasTheInnerFrames) {
    const auto outer = make_.make_coroutine(State::kExecuting);
    const auto middle = make_.make_coroutine(State::kExecuting);
    const auto inner = make_.make_coroutine(State::kExecuting);
    const auto outcome =
        read({make_task("middle", middle), make_task("outer", outer), make_task("inner", inner)},
             {inner.place, Address(0x10), Address(0x20), middle.place, outer.place, Address(0x30)});
    ASSERT_EQ(outcome.task_count, 3U);
    const auto frames = [&](std::size_t task) {
        EXPECT_EQ(capture_.task(task).state, TaskState::kRunning);
        return std::pair(capture_.task(task).first_frame, capture_.task(task).frame_count);
    };
    EXPECT_EQ(frames(0), (std::pair<std::size_t, std::size_t>(1, 3)));
    EXPECT_EQ(frames(1), (std::pair<std::size_t, std::size_t>(4, 1)));
    EXPECT_EQ(frames(2), (std::pair<std::size_t, std::size_t>(0, 1)));
}

TEST_P(TaskCaptureOf, WhatIsExecutedElsewhereHasNoFrames) {
    const auto running = make_.make_coroutine(State::kExecuting);
    ASSERT_EQ(read({make_task("elsewhere", running)}, {Address(0x10)}).task_count, 1U);
    EXPECT_EQ(capture_.task(0).state, TaskState::kElsewhere);
    EXPECT_EQ(codes(0).size(), 0U);
}

TEST_P(TaskCaptureOf, StatesOfCoroutinesAreThoseOfTheirTasks) {
    const auto created = make_.make_coroutine(State::kCreated);
    const auto finished = make_.make_coroutine(State::kFinished);
    const Address compiled = make_.make_object("cython_coroutine");
    const auto outcome = read({make_task("created", created), make_task("finished", finished),
                               make_task("compiled", compiled), make_task("none", Address())});
    ASSERT_EQ(outcome.task_count, 4U);
    EXPECT_EQ(capture_.task(0).state, TaskState::kNotStarted);
    EXPECT_EQ(codes(0), std::vector<Address>{created.code});
    EXPECT_EQ(capture_.task(1).state, TaskState::kFinished);
    EXPECT_EQ(capture_.task(2).state, TaskState::kSuspended);
    EXPECT_EQ(capture_.task(3).state, TaskState::kFinished);
}

TEST_P(TaskCaptureOf, ChainsLongerThanTheLimitAreCutAndTheOthersStay) {
    Coroutine coroutine = make_.make_coroutine(State::kSuspended);
    for (std::size_t i = 0; i < kMaxFrames; ++i) {
        coroutine = make_.make_coroutine(State::kSuspended, coroutine.object);
    }
    const auto after = make_.make_coroutine(State::kSuspended);
    ASSERT_EQ(read({make_task("deep", coroutine), make_task("after", after)}).task_count, 2U);
    EXPECT_TRUE(capture_.task(0).is_truncated);
    ASSERT_EQ(codes(0).size(), kMaxFrames);
    EXPECT_EQ(codes(0).back(), coroutine.code) << "the outermost ones are kept";
    EXPECT_FALSE(capture_.task(1).is_truncated);
    EXPECT_EQ(codes(1), std::vector<Address>{after.code});
}

TEST_P(TaskCaptureOf, WaitersAreTasksOfTheLoopAndEachOnce) {
    const Address awaited = make_task("awaited");
    const Address waiter = make_task("waiter");
    const Address other = make_task("other");
    const Address foreign = make_.make_task({.loop = make_.make_object("Loop")});
    make_.set_callbacks(
        awaited, {make_.make_wakeup(foreign), make_.make_wakeup(waiter), make_.make_wakeup(waiter),
                  make_.make_wakeup(awaited), make_.make_wakeup(other)});
    ASSERT_EQ(read({awaited, waiter, other, foreign}).task_count, 3U);
    EXPECT_EQ(waiters(0), (Indices{1, 2}));
    EXPECT_EQ(waiters(1), Indices{});
}

TEST_P(TaskCaptureOf, WhatCannotBeReadInFullIsToldAsCut) {
    const Address awaited = make_task("awaited");
    ASSERT_FALSE(read({awaited}).is_cut);
    make_.set_callbacks(awaited, std::vector<Address>(300, make_.none));
    EXPECT_TRUE(read({awaited}).is_cut);
    make_.set_callbacks(awaited, {});
    auto loop = make_.make_loop({awaited});
    loop.modules = make_.make_modules({{"_all_tasks", make_.none}});
    EXPECT_TRUE(read_loop(loop).is_cut);
}

TEST_P(TaskCaptureOf, TasksOfSeveralThreadsStandBehindEachOther) {
    const Address one = make_task("one", make_.make_coroutine(State::kSuspended));
    const Address waiter = make_task("waiter");
    const auto coroutine = make_.make_coroutine(State::kSuspended);
    const Address two = make_task("two", coroutine);
    make_.await(waiter, two);
    ASSERT_EQ(read({one}).task_count, 1U);
    const auto outcome = read({two, waiter});
    EXPECT_EQ(outcome.first_task, 1U);
    ASSERT_EQ(outcome.task_count, 2U);
    EXPECT_EQ(name(0), "one");
    EXPECT_EQ(name(1), "two");
    EXPECT_EQ(codes(1), std::vector<Address>{coroutine.code});
    EXPECT_EQ(waiters(1), Indices{2});
    EXPECT_EQ(capture_.task(2).waits_for, 1U);
    // A task of the thread before is none of this one's.
    make_.set_callbacks(two, {make_.make_wakeup(one)});
    ASSERT_EQ(read({two}).first_task, 3U);
    EXPECT_EQ(waiters(3), Indices{});
}

TEST_P(TaskCaptureOf, AnAttemptCanBeTakenBack) {
    const Address one = make_task("one", make_.make_coroutine(State::kSuspended));
    const Address two = make_task("two", make_.make_coroutine(State::kSuspended));
    ASSERT_EQ(read({one}).task_count, 1U);
    const TaskCapture::Mark mark = capture_.mark();
    ASSERT_EQ(read({two, one}).task_count, 2U);
    capture_.go_back(mark);
    const auto again = read({two});
    EXPECT_EQ(again.first_task, 1U);
    ASSERT_EQ(again.task_count, 1U);
    EXPECT_EQ(name(0), "one");
    EXPECT_EQ(name(1), "two");
    capture_.clear();
    EXPECT_EQ(read({two}).first_task, 0U);
    EXPECT_EQ(name(0), "two");
}

TEST_P(TaskCaptureOf, NothingIsKeptFromOneLookToTheNext) {
    memory_.fill_gaps();  // so that whole pages can be copied, and kept
    const Address task = make_task("before");
    const auto loop = make_.make_loop({task});
    ASSERT_EQ(read_loop(loop).task_count, 1U);
    memory_.write(task + at(layout_.task.name), str("after"));
    capture_.clear();
    ASSERT_EQ(read_loop(loop).task_count, 1U);
    EXPECT_EQ(name(0), "after");
}

TEST_P(TaskCaptureOf, MoreTasksThanThereIsRoomForAreCut) {
    memory_.fill_gaps();
    // One behind the other, as there is a bound on what a set may hold.
    const std::size_t stride = (at(layout_.task.size) + 15) / 16 * 16;
    const Address model = make_task("");
    std::vector<std::byte> copy(at(layout_.task.size));
    ASSERT_TRUE(memory_.read_bytes(model, copy.data(), copy.size()).has_value());
    const Address block = memory_.allocate((TaskCapture::kMaxTasks + 1) * stride);
    std::vector<Address> tasks;
    for (std::size_t i = 0; i < TaskCapture::kMaxTasks; ++i) {
        tasks.push_back(block + i * stride);
        ASSERT_TRUE(memory_.write_bytes(tasks.back(), copy.data(), copy.size()));
    }
    auto loop = make_.make_loop({});
    loop.modules = make_.make_modules({{"_eager_tasks", make_.make_set(tasks)}});
    auto outcome = read_loop(loop);
    EXPECT_EQ(outcome.task_count, TaskCapture::kMaxTasks);
    EXPECT_FALSE(outcome.is_cut);
    outcome = read_loop(loop);
    EXPECT_EQ(outcome.first_task, TaskCapture::kMaxTasks);
    EXPECT_EQ(outcome.task_count, 0U);
    EXPECT_TRUE(outcome.is_cut);
}

INSTANTIATE_TEST_SUITE_P(Versions, TaskCaptureOf, testing::Range(8, 16), test::name_of_row);
INSTANTIATE_TEST_SUITE_P(FreeThreaded, TaskCaptureOf, testing::Values(113, 114, 115),
                         test::name_of_row);

}  // namespace
}  // namespace echion::capture
