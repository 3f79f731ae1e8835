#include "sampling/task_sweep.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "swept_tasks.h"

namespace echion::sampling {
namespace {

using Texts = std::vector<std::string>;

class TaskSweepOf : public test::SweptTasks {
  protected:
    using Sweep = TaskSweep;

    std::string name(const Sweep::Task& task) const {
        return std::string(sweep_.name(sweep_.record(task.own_record)));
    }
    bool is_live(const Sweep::Task& task) const {
        return task.own_record != Sweep::kNone &&
               sweep_.record(task.own_record).state != Sweep::State::kGone;
    }
    Texts leaves() const {
        Texts out;
        for (std::size_t i = 0; i < sweep_.count(); ++i) {
            if (sweep_.task(i).is_leaf) {
                out.push_back(name(sweep_.task(i)));
            }
        }
        std::sort(out.begin(), out.end());
        return out;
    }
    /// What is known of a task, and of all that wait for it.
    std::string describe(std::uint32_t index, int depth = 0) const {
        const Sweep::Record& record = sweep_.record(index);
        std::string out(sweep_.name(record));
        out += record.state == Sweep::State::kRunning ? "!" : "";
        out += ":" + std::to_string(record.ref_count);
        for (const stream::FrameRef& ref : sweep_.refs(record)) {
            out += "," + std::to_string(ref.code_id) + "+" + std::to_string(ref.offset);
        }
        Texts waiters;
        for (const std::uint32_t waiter : sweep_.waiters(record)) {
            waiters.push_back(depth < 4 ? describe(waiter, depth + 1) : "...");
        }
        std::sort(waiters.begin(), waiters.end());
        for (const std::string& waiter : waiters) {
            out += " (" + waiter + ")";
        }
        return out;
    }
    Texts describe_all() const {
        Texts out;
        for (std::size_t i = 0; i < sweep_.count(); ++i) {
            const Sweep::Task& task = sweep_.task(i);
            if (is_live(task)) {
                out.push_back((task.is_leaf ? "leaf " : "") + describe(task.own_record));
            }
        }
        std::sort(out.begin(), out.end());
        return out;
    }
    /// Some of all sorts.
    std::vector<Address> make_many() {
        const Address root = make_task("root");
        const Address left = make_task("left");
        const Address right = make_task("right");
        const Address leaf = make_task("leaf");
        const Address alone = make_task("alone");
        const Address one = make_task("one of a ring");
        const Address other = make_task("other of a ring");
        const Address runs = make_task("runs", State::kExecuting);
        const Address waits = make_task("waits for what runs");
        const Address done = make_task("done");
        finish(done);
        wait({root}, left);
        wait({root}, right);
        wait({left, right}, leaf);
        wait({one}, other);
        wait({other}, one);
        wait({waits}, runs);
        return {root, alone, left, one, leaf, done, runs, right, other, waits};
    }
};

TEST_P(TaskSweepOf, ATaskIsReadWithItsNameItsFramesAndThoseWhoWait) {
    const auto inner = make_coroutine("inner");
    const Address task =
        make_task("task", make_coroutine("outer", State::kSuspended, inner.object));
    const Address waiter = make_task("waiter");
    wait({waiter}, task);
    set_tasks({task, waiter});
    EXPECT_EQ(sweep(), 1U);
    ASSERT_EQ(sweep_.count(), 2U);
    const Sweep::Record& record = sweep_.record(sweep_.task(0).own_record);
    EXPECT_EQ(sweep_.task(0).task, task);
    EXPECT_EQ(sweep_.name(record), "task");
    EXPECT_EQ(record.state, Sweep::State::kSuspended);
    EXPECT_FALSE(record.is_broken);
    EXPECT_FALSE(record.is_truncated);
    ASSERT_EQ(sweep_.refs(record).size(), 2U);
    stream_.end_tick();
    EXPECT_EQ(stream_.codes[sweep_.refs(record)[0].code_id], "outer");
    EXPECT_EQ(stream_.codes[sweep_.refs(record)[1].code_id], "inner");
    ASSERT_EQ(sweep_.waiters(record).size(), 1U);
    EXPECT_EQ(sweep_.name(sweep_.record(sweep_.waiters(record)[0])), "waiter");
    EXPECT_EQ(leaves(), Texts{"task"});
    EXPECT_EQ(sweep_.cut(), 0U);
}

TEST_P(TaskSweepOf, InManyStepsTheSameIsReadAsInOne) {
    const std::vector<Address> tasks = make_many();
    set_tasks(tasks);
    EXPECT_EQ(sweep(), 1U);
    const Texts at_once = describe_all();
    EXPECT_EQ(at_once.size(), tasks.size() - 1);
    EXPECT_EQ(leaves().size(), 3U);
    EXPECT_GE(sweep(Pace::kOneByOne), tasks.size());
    EXPECT_EQ(describe_all(), at_once);
    EXPECT_EQ(sweep(), 1U);
    EXPECT_EQ(describe_all(), at_once);
    EXPECT_EQ(sweep_.cut(), 0U);
}

TEST_P(TaskSweepOf, WhatIsDroppedIsReadAgain) {
    set_tasks(make_many());
    sweep();
    const Texts expected = describe_all();
    for (const Pace pace : {Pace::kAtOnce, Pace::kOneByOne}) {
        for (const bool is_assigned : {false, true}) {
            begin_sweep();
            for (std::size_t steps = 0; sweep_.is_under_way() && steps < 1000; ++steps) {
                const std::size_t count = sweep_.count();
                read(pace);
                if (is_assigned) {
                    sweep_.assign();
                }
                sweep_.drop();
                EXPECT_TRUE(sweep_.is_under_way());
                EXPECT_FALSE(sweep_.is_complete());
                EXPECT_EQ(sweep_.count(), count);
                EXPECT_TRUE(sweep_.frames().empty());
                read_and_keep(pace);
            }
            EXPECT_TRUE(sweep_.is_complete());
            EXPECT_EQ(describe_all(), expected);
        }
    }
}

TEST_P(TaskSweepOf, NothingStaysOfWhatIsDropped) {
    const Address task = make_task("before");
    const Address waiter = make_task("waiter");
    wait({waiter}, task);
    set_tasks({task, waiter});
    begin_sweep();
    read(Pace::kAtOnce);
    sweep_.assign();
    sweep_.drop();
    rename(task, "after");
    wait({}, task);
    read_and_keep(Pace::kAtOnce);
    ASSERT_TRUE(sweep_.is_complete());
    EXPECT_EQ(leaves(), (Texts{"after", "waiter"}));
}

TEST_P(TaskSweepOf, OfWhatIsReadTwiceEachStepHasItsOwn) {
    const Address one = make_task("one");
    const Address other = make_task("other");
    const Address waiter = make_task("before");
    wait({waiter}, one);
    wait({waiter}, other);
    set_tasks({one, other, waiter});
    begin_sweep();
    read_and_keep(Pace::kOneByOne);
    rename(waiter, "after");
    while (sweep_.is_under_way()) {
        read_and_keep(Pace::kOneByOne);
    }
    ASSERT_EQ(leaves(), (Texts{"one", "other"}));
    Texts names;
    for (std::size_t i = 0; i < sweep_.count(); ++i) {
        const Sweep::Task& task = sweep_.task(i);
        if (task.is_leaf) {
            const auto waiters = sweep_.waiters(sweep_.record(task.own_record));
            ASSERT_EQ(waiters.size(), 1U);
            names.push_back(name(task) + " " + std::string(sweep_.name(sweep_.record(waiters[0]))));
        }
    }
    EXPECT_EQ(names, (Texts{"one before", "other after"}));
}

TEST_P(TaskSweepOf, OneThatWaitsForAnotherIsNoLeaf) {
    const Address root = make_task("root");
    const Address middle = make_task("middle");
    const Address leaf = make_task("leaf");
    wait({root}, middle);
    wait({middle}, leaf);
    set_tasks({root, middle, leaf});
    sweep();
    EXPECT_EQ(leaves(), Texts{"leaf"});
    // For one that is done nobody waits any more.
    finish(leaf);
    sweep();
    EXPECT_EQ(leaves(), Texts{"middle"});
}

TEST_P(TaskSweepOf, NeitherWhatRunsNorWhatWaitsForItIsALeaf) {
    const auto coroutine = make_coroutine("on_stack");
    const Address on_stack = make_task("on stack", coroutine);
    const Address elsewhere = make_task("elsewhere", State::kExecuting);
    const Address waiter = make_task("waiter");
    const Address root = make_task("root");
    wait({waiter}, on_stack);
    wait({root}, waiter);
    set_tasks({root, waiter, on_stack, elsewhere});
    sweep();
    EXPECT_EQ(leaves(), Texts{"on stack"});
    places_ = {Address(0x10), coroutine.place};
    sweep();
    EXPECT_EQ(leaves(), Texts{});
    EXPECT_EQ(describe_all().size(), 4U);
}

TEST_P(TaskSweepOf, WhatIsNoneOfTheLoopsTasksIsLeftOut) {
    const Address done = make_task("done");
    finish(done);
    const Address foreign = make_.make_task({.coro = make_coroutine("foreign").object,
                                             .name = str("foreign"),
                                             .loop = make_.make_object("Loop")});
    const Address ended = make_task("ended", State::kFinished);
    const Address without = make_.make_task({.name = str("without a coroutine")});
    const Address task = make_task("task");
    wait({done, foreign, without}, task);
    set_tasks({done, foreign, ended, without, make_.none, task});
    sweep();
    EXPECT_EQ(leaves(), Texts{"task"});
    EXPECT_EQ(describe_all().size(), 1U);
    EXPECT_EQ(sweep_.waiters(sweep_.record(sweep_.task(sweep_.count() - 1).own_record)).size(), 0U);
}

TEST_P(TaskSweepOf, ARingHasOneLeafWhichIsOneOfIt) {
    const Address one = make_task("ring");
    const Address two = make_task("ring");
    const Address three = make_task("ring");
    const Address waiter = make_task("waiter");
    const Address root = make_task("root");
    wait({two}, one);
    wait({three, waiter}, two);
    wait({one}, three);
    wait({root}, waiter);
    std::vector<Address> tasks{one, two, three, waiter, root};
    std::sort(tasks.begin(), tasks.end());
    do {
        set_tasks(tasks);
        sweep();
        ASSERT_EQ(leaves(), Texts{"ring"});
    } while (std::next_permutation(tasks.begin(), tasks.end()));
    sweep(Pace::kOneByOne);
    EXPECT_EQ(leaves(), Texts{"ring"});
}

TEST_P(TaskSweepOf, OneThatWaitsForTwoRingsLeavesEachItsLeaf) {
    const Address one = make_task("one ring");
    const Address two = make_task("one ring");
    const Address three = make_task("other ring");
    const Address four = make_task("other ring");
    const Address waiter = make_task("waiter");
    wait({two, waiter}, one);
    wait({one}, two);
    wait({four}, three);
    wait({three, waiter}, four);
    std::vector<Address> tasks{one, two, three, four, waiter};
    std::sort(tasks.begin(), tasks.end());
    do {
        set_tasks(tasks);
        sweep();
        ASSERT_EQ(leaves(), (Texts{"one ring", "other ring"}));
    } while (std::next_permutation(tasks.begin(), tasks.end()));
}

TEST_P(TaskSweepOf, ARingThatWaitsForAnotherTaskHasNone) {
    const Address one = make_task("one");
    const Address two = make_task("two");
    const Address leaf = make_task("leaf");
    wait({two}, one);
    wait({one}, two);
    wait({two}, leaf);
    set_tasks({one, two, leaf});
    sweep();
    EXPECT_EQ(leaves(), Texts{"leaf"});
}

TEST_P(TaskSweepOf, OneThatWaitsForItselfIsALeaf) {
    const Address task = make_task("task");
    wait({task}, task);
    set_tasks({task});
    sweep();
    EXPECT_EQ(leaves(), Texts{"task"});
}

TEST_P(TaskSweepOf, FramesBeyondTheLimitAreCut) {
    Coroutine coroutine = make_coroutine("innermost");
    for (std::size_t i = 0; i < kMaxFrames; ++i) {
        coroutine = make_coroutine("f", State::kSuspended, coroutine.object);
    }
    set_tasks({make_task("deep", coroutine)});
    sweep();
    const Sweep::Record& record = sweep_.record(sweep_.task(0).own_record);
    EXPECT_TRUE(record.is_truncated);
    EXPECT_EQ(record.ref_count, kMaxFrames);
}

TEST_P(TaskSweepOf, ALoopWithoutTasksIsCompleteAtOnce) {
    EXPECT_FALSE(sweep_.is_complete());
    EXPECT_FALSE(sweep_.is_under_way());
    set_tasks({});
    EXPECT_EQ(sweep(), 1U);
    EXPECT_EQ(sweep_.count(), 0U);
    sweep_.clear();
    EXPECT_FALSE(sweep_.is_complete());
}

TEST_P(TaskSweepOf, NothingBeginsWithoutAsyncio) {
    set_tasks({make_task("task")});
    sweep();
    const Address modules = make_.objects().make_dict({{str("sys"), make_.none}});
    memory_.copy_to_own_places();
    EXPECT_FALSE(sweep_.begin(modules));
    EXPECT_FALSE(sweep_.is_under_way());
    EXPECT_FALSE(sweep_.is_complete());
    EXPECT_EQ(sweep_.count(), 0U);
}

TEST_P(TaskSweepOf, IdsThatAreGivenAnewEndWhatIsKnown) {
    set_tasks({make_task("one"), make_task("two")});
    sweep();
    ASSERT_TRUE(sweep_.is_complete());
    renumber();
    EXPECT_FALSE(sweep_.is_complete());
    // Between two steps, too.
    begin_sweep();
    read_and_keep(Pace::kOneByOne);
    ASSERT_TRUE(sweep_.is_under_way());
    renumber();
    read_and_keep(Pace::kOneByOne);
    EXPECT_FALSE(sweep_.is_under_way());
    EXPECT_EQ(sweep_.count(), 0U);
    sweep();
    EXPECT_EQ(leaves(), (Texts{"one", "two"}));
}

INSTANTIATE_TEST_SUITE_P(Versions, TaskSweepOf, testing::Range(8, 16), test::name_of_row);
INSTANTIATE_TEST_SUITE_P(FreeThreaded, TaskSweepOf, testing::Values(113, 114, 115),
                         test::name_of_row);

}  // namespace
}  // namespace echion::sampling
