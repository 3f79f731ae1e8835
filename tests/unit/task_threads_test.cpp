#include "sampling/task_threads.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cpython/runtime_view.h"
#include "sampling/interpreters.h"
#include "sampling/sampler_options.h"
#include "sampling/thread_table.h"
#include "swept_tasks.h"

namespace echion::sampling {
namespace {

using Texts = std::vector<std::string>;

constexpr std::int64_t kInterpreterId = 3;
constexpr std::int64_t kNoEnd = INT64_MAX;

class TaskThreadsOf : public test::SweptTasks {
  protected:
    void SetUp() override {
        SweptTasks::SetUp();
        options_.max_frames = kMaxFrames;
        threads_of_python_ = ThreadTable::make(kMaxFrames).value();
        interpreters_ = Interpreters::make(layout_).value();
        const std::array<cpython::InterpreterHead, 1> heads{
            cpython::InterpreterHead{Address(0x10), Address(0x20), kInterpreterId}};
        interpreters_.replace(heads);
        owner_ = &add_owner(Address(0x100), "MainThread", 4711);
        other_owner_ = &add_owner(Address(0x200), "Other", 4712);
        prefix_ = {ref("main"), ref("select")};
    }

    /// A frame of that name.
    stream::FrameRef ref(std::string_view name) {
        return {labels_.find_id(stream_.ticks(), labels_.frame_of(name).code), 0};
    }
    TrackedThread& add_owner(Address state, std::string_view name, std::uint32_t native_id) {
        TrackedThread& owner = *threads_of_python_.add(state);
        owner.native_id = native_id;
        call(owner, name);
        return owner;
    }
    static void call(TrackedThread& owner, std::string_view name) {
        std::memcpy(owner.name, name.data(), name.size());
        owner.name_bytes = static_cast<std::uint32_t>(name.size());
    }

    /// The other end reads what has been written, and another tick begins.
    void next_tick() {
        stream_.end_tick();
        stream_.begin_tick();
    }
    void publish(const TrackedThread& owner) {
        TaskThreads::Progress progress;
        EXPECT_TRUE(threads_.publish(owner, sweep_, prefix_, progress, kNoEnd));
        count_ = progress.count;
        next_tick();
    }
    void publish() { publish(*owner_); }
    void sweep_and_publish(Pace pace = Pace::kAtOnce) {
        sweep(pace);
        publish();
    }
    /// Stacks of the tasks, and which part of their time they have if that is not all.
    Texts stacks() const {
        Texts out;
        for (const auto& [id, thread] : stream_.threads) {
            EXPECT_GE(id, stream::kFirstTaskThread);
            out.push_back(thread.stack +
                          (thread.parts == 1 ? "" : " /" + std::to_string(thread.parts)));
        }
        std::sort(out.begin(), out.end());
        return out;
    }
    struct Written {
        std::size_t starts, stacks, shares, ends;

        bool operator==(const Written&) const = default;
    };
    /// What has been written since it was last asked.
    Written take_written() {
        const Written now{stream_.starts, stream_.stacks, stream_.shares, stream_.ends};
        const Written before = std::exchange(written_, now);
        return {now.starts - before.starts, now.stacks - before.stacks, now.shares - before.shares,
                now.ends - before.ends};
    }

    SamplerOptions options_;
    ThreadTable threads_of_python_;
    Interpreters interpreters_;
    TaskThreads threads_{stream_.ticks(), interpreters_, labels_, options_};
    TrackedThread* owner_ = nullptr;
    TrackedThread* other_owner_ = nullptr;
    std::vector<stream::FrameRef> prefix_;
    std::size_t count_ = 0;  // of ways, of the last publish()

  private:
    Written written_{};
};

TEST_P(TaskThreadsOf, ATaskHasTheStackOfItsLoopAndItsOwnBehindIt) {
    const auto inner = make_coroutine("inner");
    set_tasks({make_task("task", make_coroutine("outer", State::kSuspended, inner.object))});
    sweep_and_publish();
    EXPECT_EQ(stacks(), Texts{"main select task outer inner"});
    const auto& thread = stream_.threads.begin()->second;
    EXPECT_EQ(thread.name, "MainThread");
    EXPECT_EQ(thread.native_id, 4711U);
    EXPECT_EQ(thread.interpreter_id, kInterpreterId);
    EXPECT_EQ(thread.marks, model::StackMarks());
    EXPECT_EQ(thread.missed_ns, 0U);
    EXPECT_EQ(count_, 1U);
    EXPECT_EQ(threads_.cut(), 0U);
}

TEST_P(TaskThreadsOf, ThoseWhoWaitStandInFrontOfWhatTheyWaitFor) {
    const Address root = make_task("root");
    const Address middle = make_task("middle");
    const Address leaf = make_task("leaf");
    wait({root}, middle);
    wait({middle}, leaf);
    set_tasks({root, middle, leaf, make_task("alone")});
    sweep_and_publish();
    EXPECT_EQ(stacks(), (Texts{"main select alone alone()",
                               "main select root root() middle middle() leaf leaf()"}));
}

TEST_P(TaskThreadsOf, SeveralWaysShareTheTimeOfATask) {
    const Address root = make_task("root");
    const Address left = make_task("left");
    const Address right = make_task("right");
    const Address leaf = make_task("leaf");
    wait({root}, left);
    wait({root}, right);
    wait({left, right}, leaf);
    set_tasks({root, left, right, leaf});
    sweep_and_publish();
    EXPECT_EQ(stacks(), (Texts{"main select root root() left left() leaf leaf() /2",
                               "main select root root() right right() leaf leaf() /2"}));
    EXPECT_EQ(count_, 2U);
    take_written();
    // One is left.
    wait({right}, leaf);
    finish(left);
    sweep_and_publish();
    EXPECT_EQ(stacks(), Texts{"main select root root() right right() leaf leaf()"});
    EXPECT_EQ(take_written().ends, 1U);
    wait({}, leaf);
    sweep_and_publish();
    EXPECT_EQ(stacks(),
              (Texts{"main select leaf leaf()", "main select root root() right right()"}));
}

TEST_P(TaskThreadsOf, ARingHasOneWay) {
    const Address one = make_task("one");
    const Address two = make_task("two");
    const Address waiter = make_task("waiter");
    wait({two}, one);
    wait({one}, two);
    set_tasks({one, two});
    sweep_and_publish();
    EXPECT_EQ(stacks(), Texts{"main select two two() one one()"});
    // One way leads round the ring to its end, another from above.
    wait({one, waiter}, two);
    set_tasks({waiter, one, two});
    sweep_and_publish();
    EXPECT_EQ(stacks(), Texts{"main select waiter waiter() two two() one one()"});
}

TEST_P(TaskThreadsOf, WhatRunsIsInNoWay) {
    const Address runs = make_task("runs", State::kExecuting);
    const Address waits = make_task("waits");
    const Address leaf = make_task("leaf");
    wait({waits}, runs);
    wait({runs}, leaf);
    set_tasks({runs, waits, leaf});
    sweep_and_publish();
    EXPECT_EQ(stacks(), Texts{"main select leaf leaf()"});
}

TEST_P(TaskThreadsOf, WhatStandsIsNotWrittenAgain) {
    const Address root = make_task("root");
    const Address leaf = make_task("leaf");
    const Address alone = make_task("alone");
    wait({root}, leaf);
    set_tasks({root, leaf, alone});
    sweep_and_publish();
    EXPECT_EQ(take_written(), (Written{2, 2, 2, 0}));
    sweep_and_publish();
    sweep_and_publish(Pace::kOneByOne);
    EXPECT_EQ(take_written(), (Written{0, 0, 0, 0}));
    rename(root, "other");
    sweep_and_publish();
    EXPECT_EQ(take_written(), (Written{0, 1, 0, 0}));
    EXPECT_EQ(stacks(),
              (Texts{"main select alone alone()", "main select other root() leaf leaf()"}));
}

TEST_P(TaskThreadsOf, AStackThatHasChangedIsWritten) {
    const auto coroutine = make_coroutine("before");
    const Address task = make_task("task", coroutine);
    set_tasks({task, make_task("alone")});
    sweep_and_publish();
    take_written();
    const auto inner = make_coroutine("inner");
    memory_.write(task + cpython::at(layout_.task.coro),
                  make_coroutine("outer", State::kSuspended, inner.object).object);
    sweep_and_publish();
    EXPECT_EQ(take_written(), (Written{0, 1, 0, 0}));
    EXPECT_EQ(stacks(), (Texts{"main select alone alone()", "main select task outer inner"}));
}

TEST_P(TaskThreadsOf, AllAreWrittenAgainWhenTheStackOfTheirLoopIsAnother) {
    set_tasks({make_task("one"), make_task("two")});
    sweep_and_publish();
    take_written();
    prefix_ = {ref("main"), ref("run"), ref("select")};
    publish();
    EXPECT_EQ(take_written(), (Written{0, 2, 0, 0}));
    EXPECT_EQ(stacks(), (Texts{"main run select one one()", "main run select two two()"}));
}

TEST_P(TaskThreadsOf, AllAreWrittenAgainWhenIdsAreGivenAnew) {
    const Address task = make_task("task", make_coroutine("before"));
    set_tasks({task});
    renumber();
    sweep_and_publish();
    take_written();
    // The code object of another coroutine gets the id that this one's had.
    memory_.write(task + cpython::at(layout_.task.coro), make_coroutine("after").object);
    renumber();
    sweep_and_publish();
    EXPECT_EQ(take_written(), (Written{0, 1, 0, 0}));
    EXPECT_EQ(stacks(), Texts{"main select task after"});
}

TEST_P(TaskThreadsOf, AllAreCalledAsTheirThreadIs) {
    set_tasks({make_task("one"), make_task("two")});
    sweep_and_publish();
    take_written();
    call(*owner_, "Renamed");
    publish();
    EXPECT_EQ(take_written().starts, 2U);
    for (const auto& [id, thread] : stream_.threads) {
        EXPECT_EQ(thread.name, "Renamed");
        EXPECT_FALSE(thread.stack.empty());
    }
    publish();
    EXPECT_EQ(take_written(), (Written{0, 0, 0, 0}));
}

TEST_P(TaskThreadsOf, TasksThatEndAreEnded) {
    const Address one = make_task("one");
    const Address two = make_task("two");
    const Address three = make_task("three");
    set_tasks({one, two, three});
    sweep_and_publish();
    take_written();
    finish(two);
    sweep_and_publish();
    EXPECT_EQ(take_written(), (Written{0, 0, 0, 1}));
    EXPECT_EQ(stacks(), (Texts{"main select one one()", "main select three three()"}));
    set_tasks({three, make_task("four")});
    sweep_and_publish();
    EXPECT_EQ(take_written(), (Written{1, 1, 1, 1}));
    EXPECT_EQ(stacks(), (Texts{"main select four four()", "main select three three()"}));
    set_tasks({});
    sweep_and_publish();
    EXPECT_EQ(take_written().ends, 2U);
    EXPECT_EQ(stacks(), Texts{});
    EXPECT_EQ(count_, 0U);
}

TEST_P(TaskThreadsOf, AThreadsTasksEndWithIt) {
    set_tasks({make_task("one"), make_task("two")});
    sweep_and_publish();
    set_tasks({make_task("three")});
    sweep();
    publish(*other_owner_);
    ASSERT_EQ(stacks().size(), 3U);
    threads_.end(owner_->id);
    next_tick();
    EXPECT_EQ(stacks(), Texts{"main select three three()"});
    EXPECT_EQ(stream_.threads.begin()->second.name, "Other");
    threads_.end(other_owner_->id);
    next_tick();
    EXPECT_EQ(stacks(), Texts{});
}

TEST_P(TaskThreadsOf, ATaskThatAnotherThreadHadIsItsUntilThatOneIsLookedAt) {
    const Address task = make_task("task");
    set_tasks({task});
    sweep_and_publish();
    publish(*other_owner_);
    EXPECT_EQ(threads_.cut(), 1U);
    ASSERT_EQ(stream_.threads.size(), 1U);
    EXPECT_EQ(stream_.threads.begin()->second.name, "MainThread");
    threads_.end(owner_->id);
    publish(*other_owner_);
    EXPECT_EQ(stacks(), Texts{"main select task task()"});
    EXPECT_EQ(stream_.threads.begin()->second.name, "Other");
}

TEST_P(TaskThreadsOf, ManyAreWrittenInSteps) {
    constexpr std::size_t kTasks = 40;
    std::vector<Address> tasks;
    Texts expected;
    for (std::size_t i = 0; i < kTasks; ++i) {
        const std::string name = std::to_string(i);
        tasks.push_back(make_task(name));
        expected.push_back("main select " + name + " " + name + "()");
    }
    std::sort(expected.begin(), expected.end());
    const Address ended = make_task("ended");
    set_tasks({ended});
    sweep_and_publish();
    take_written();
    set_tasks(tasks);
    sweep();
    TaskThreads::Progress progress;
    std::size_t steps = 1;
    for (; !threads_.publish(*owner_, sweep_, prefix_, progress, 0) && steps < kTasks; ++steps) {
        next_tick();
        const Written written = take_written();
        EXPECT_GT(written.stacks, 0U);
        EXPECT_LT(written.stacks, kTasks / 2);
        EXPECT_EQ(written.ends, 0U);
    }
    next_tick();
    EXPECT_GT(steps, 2U);
    EXPECT_EQ(progress.count, kTasks);
    EXPECT_EQ(stacks(), expected);
    EXPECT_EQ(take_written().ends, 1U);
}

TEST_P(TaskThreadsOf, WhatIsVoidIsWrittenAgain) {
    const Address one = make_task("one");
    const Address two = make_task("two");
    const Address leaf = make_task("leaf");
    wait({one, two}, leaf);
    const Address ended = make_task("ended");
    set_tasks({one, two, leaf, ended});
    sweep_and_publish();
    const Texts before = stacks();
    take_written();
    threads_.forget_announcements();
    finish(ended);
    sweep_and_publish();
    EXPECT_EQ(take_written(), (Written{2, 2, 2, 0})) << "what has ended is not in the stream";
    publish();
    EXPECT_EQ(take_written(), (Written{0, 0, 0, 0}));
    stream_.threads.erase(std::find_if(
        stream_.threads.begin(), stream_.threads.end(),
        [](const auto& thread) { return thread.second.stack == "main select ended ended()"; }));
    EXPECT_EQ(stacks().size(), 2U);
    for (const std::string& stack : stacks()) {
        EXPECT_EQ(std::count(before.begin(), before.end(), stack), 1) << stack;
    }
}

TEST_P(TaskThreadsOf, TheTimeOfAVoidAnnouncementIsMissed) {
    set_tasks({make_task("task")});
    sweep_and_publish();
    threads_.forget_announcements();
    publish();
    ASSERT_EQ(stream_.threads.size(), 1U);
    EXPECT_EQ(stream_.threads.begin()->second.missed_ns, 0U);
    threads_.forget_announcements();
    next_tick();
    next_tick();
    next_tick();
    publish();
    EXPECT_EQ(stream_.threads.begin()->second.missed_ns, 2U * test::RecordedStream::kIntervalNs);
}

TEST_P(TaskThreadsOf, TimeThatNobodyLookedAtIsMissedByTheTasksOfAThread) {
    set_tasks({make_task("one"), make_task("two")});
    sweep_and_publish();
    set_tasks({make_task("three")});
    sweep();
    publish(*other_owner_);
    threads_.write_missed(*owner_, 5000);
    next_tick();
    for (const auto& [id, thread] : stream_.threads) {
        EXPECT_EQ(thread.missed_ns, thread.name == "Other" ? 0U : 5000U);
    }
}

TEST_P(TaskThreadsOf, MoreWaysThanTheBoundAreCut) {
    const Address leaf = make_task("leaf");
    std::vector<Address> tasks{leaf};
    std::vector<Address> waiters;
    for (std::size_t i = 0; i < 8; ++i) {
        waiters.push_back(make_task(std::to_string(i)));
        tasks.push_back(waiters.back());
    }
    wait(waiters, leaf);
    set_tasks(tasks);
    sweep_and_publish();
    EXPECT_EQ(stacks().size(), 8U);
    EXPECT_EQ(stacks()[3], "main select 3 3() leaf leaf() /8");
    EXPECT_EQ(threads_.cut(), 0U);
    waiters.push_back(make_task("8"));
    tasks.push_back(waiters.back());
    wait(waiters, leaf);
    set_tasks(tasks);
    sweep_and_publish();
    EXPECT_EQ(stacks().size(), 8U);
    EXPECT_EQ(threads_.cut(), 1U);
    EXPECT_EQ(take_written(), (Written{8, 8, 8, 0}));
}

TEST_P(TaskThreadsOf, AWayLongerThanTheBoundIsCutAtItsRoot) {
    options_.max_frames = 400;
    constexpr std::size_t kDepth = 64;
    std::vector<Address> tasks{make_task("0")};
    const auto add_waiter = [&] {
        tasks.push_back(make_task(std::to_string(tasks.size())));
        wait({tasks.back()}, tasks[tasks.size() - 2]);
        set_tasks(tasks);
    };
    while (tasks.size() < kDepth) {
        add_waiter();
    }
    sweep_and_publish();
    ASSERT_EQ(stacks().size(), 1U);
    const std::string stack = stacks()[0];
    EXPECT_TRUE(stack.starts_with("main select 63 63() 62 62() ")) << stack;
    EXPECT_TRUE(stack.ends_with(" 0 0()")) << stack;
    EXPECT_FALSE(stream_.threads.begin()->second.marks.truncated);
    EXPECT_EQ(threads_.cut(), 0U);
    add_waiter();
    threads_.end(owner_->id);
    sweep_and_publish();
    EXPECT_EQ(stacks(), Texts{stack});
    EXPECT_TRUE(stream_.threads.begin()->second.marks.truncated);
    EXPECT_EQ(threads_.cut(), 1U);
}

TEST_P(TaskThreadsOf, OfAStackWithTooManyFramesTheInnermostStay) {
    std::vector<Address> tasks{make_task("0")};
    for (std::size_t i = 1; i < kMaxFrames / 2; ++i) {
        tasks.push_back(make_task(std::to_string(i)));
        wait({tasks[i]}, tasks[i - 1]);
    }
    set_tasks(tasks);
    sweep();
    prefix_ = {};
    publish();
    EXPECT_EQ(stacks(), Texts{"7 7() 6 6() 5 5() 4 4() 3 3() 2 2() 1 1() 0 0()"});
    EXPECT_FALSE(stream_.threads.begin()->second.marks.truncated);
    prefix_ = {ref("main")};
    publish();
    EXPECT_EQ(stacks(), Texts{"7 7() 6 6() 5 5() 4 4() 3 3() 2 2() 1 1() 0 0()"});
    EXPECT_TRUE(stream_.threads.begin()->second.marks.truncated);
}

TEST_P(TaskThreadsOf, AStackThatCannotBeReadToItsEndIsMarked) {
    // What is executed cannot be awaited by what is suspended.
    const auto inner = make_coroutine("inner", State::kExecuting);
    const auto broken = make_coroutine("broken", State::kSuspended, inner.object);
    const Address waiter = make_task("waiter");
    const Address task = make_task("task", broken);
    wait({waiter}, task);
    set_tasks({waiter, task, make_task("whole")});
    sweep_and_publish();
    ASSERT_EQ(stream_.threads.size(), 2U);
    for (const auto& [id, thread] : stream_.threads) {
        EXPECT_EQ(thread.marks.invalid, thread.stack != "main select whole whole()");
    }
}

INSTANTIATE_TEST_SUITE_P(Versions, TaskThreadsOf, testing::Range(8, 16), test::name_of_row);
INSTANTIATE_TEST_SUITE_P(FreeThreaded, TaskThreadsOf, testing::Values(113, 114, 115),
                         test::name_of_row);

}  // namespace
}  // namespace echion::sampling
