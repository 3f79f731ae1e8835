#include "report/task_tree.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "capture/task_capture.h"
#include "cpython/layout.h"
#include "fake_asyncio.h"
#include "test_memory.h"

namespace echion::report {
namespace {

/// Tasks of a fabricated event loop, in the order in which they are added.
class TaskTreeTest : public testing::Test {
  protected:
    std::size_t add(std::string_view name) {
        tasks_.push_back(
            make_.make_task({.name = make_.objects().make_str(name), .fut_waiter = make_.none}));
        callbacks_.emplace_back();
        return tasks_.size() - 1;
    }
    void wait(std::size_t waiter, std::size_t awaited) {
        callbacks_[awaited].push_back(make_.make_wakeup(tasks_[waiter]));
        make_.set_callbacks(tasks_[awaited], callbacks_[awaited]);
    }
    /// Reads the tasks and lays them out.
    void build() {
        const auto loop = make_.make_loop(tasks_);
        const auto outcome = capture_.read(
            memory_, layout_, {loop.thread.interpreter, loop.modules, loop.thread.state, {}}, 16);
        ASSERT_EQ(outcome.task_count, tasks_.size());
        ASSERT_FALSE(outcome.is_cut);
        ASSERT_TRUE(tree_.build(capture_, outcome.first_task, outcome.task_count).has_value());
    }
    std::string name(std::uint32_t task) {
        return std::string(capture_.text(capture_.task(task).name));
    }
    /// A line for each place: as many dots as it is deep, its name, a star if it is repeated.
    std::vector<std::string> lines() {
        std::vector<std::string> result;
        tree_.visit([&](const TaskTree::Node& node) {
            result.push_back(std::string(node.depth, '.') + name(node.task) +
                             (node.is_repeated ? "*" : ""));
            return true;
        });
        return result;
    }

    const cpython::Layout& layout_ = *cpython::find_layout({3, 12, 0});
    test::TestMemory memory_;
    test::FakeAsyncio make_{memory_, layout_};
    std::vector<Address> tasks_;
    std::vector<std::vector<Address>> callbacks_;
    capture::TaskCapture capture_;
    TaskTree tree_;
};

using Lines = std::vector<std::string>;

TEST_F(TaskTreeTest, NoTasksMakeNoTree) {
    build();
    EXPECT_EQ(lines(), Lines{});
}

TEST_F(TaskTreeTest, TasksAreOrderedByNameTheShorterOnesFirst) {
    for (const char* name : {"Task-10", "b", "Task-2", "", "Task-9", "a", "Task-100"}) {
        add(name);
    }
    build();
    EXPECT_EQ(lines(), (Lines{"", "a", "b", "Task-2", "Task-9", "Task-10", "Task-100"}));
}

TEST_F(TaskTreeTest, TasksOfOneNameKeepTheOrderInWhichTheyWereRead) {
    for (int i = 0; i < 40; ++i) {
        add("same");
    }
    build();
    std::vector<std::uint32_t> order;
    tree_.visit([&](const TaskTree::Node& node) {
        order.push_back(node.task);
        return true;
    });
    EXPECT_EQ(order.size(), 40U);
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
}

TEST_F(TaskTreeTest, IdsCountTheTasksByName) {
    add("b");
    const std::size_t awaited = add("c");
    const std::size_t waiter = add("a");
    wait(waiter, awaited);
    build();
    EXPECT_EQ(tree_.id(0), 2U);
    EXPECT_EQ(tree_.id(1), 3U);
    EXPECT_EQ(tree_.id(2), 1U);
    for (std::uint32_t id = 1; id <= 3; ++id) {
        EXPECT_EQ(tree_.id(tree_.task(id)), id);
    }
    tree_.visit([&](const TaskTree::Node& node) {
        EXPECT_EQ(node.id, tree_.id(node.task));
        return true;
    });
}

TEST_F(TaskTreeTest, WhatATaskWaitsForStandsBelowIt) {
    const std::size_t leaf = add("leaf");
    const std::size_t main = add("main");
    const std::size_t worker2 = add("worker-2");
    const std::size_t worker1 = add("worker-1");
    add("alone");
    wait(main, worker2);
    wait(main, worker1);
    wait(worker1, leaf);
    build();
    EXPECT_EQ(lines(), (Lines{"main", ".worker-1", "..leaf", ".worker-2", "alone"}));
    EXPECT_EQ(tree_.child_count(1), 2U);
    EXPECT_EQ(name(tree_.first_child(1)), "worker-1");
    EXPECT_EQ(tree_.child_count(0), 0U);
}

TEST_F(TaskTreeTest, WhatSeveralWaitForIsToldInFullOnce) {
    const std::size_t shared = add("shared");
    const std::size_t below = add("below");
    wait(shared, below);
    for (const char* name : {"a", "b", "c"}) {
        wait(add(name), shared);
    }
    build();
    EXPECT_EQ(lines(), (Lines{"a", ".shared", "..below", "b", ".shared*", "c", ".shared*"}));
    std::vector<std::size_t> children;
    tree_.visit([&](const TaskTree::Node& node) {
        children.push_back(node.children);
        return true;
    });
    EXPECT_EQ(children, (std::vector<std::size_t>{1, 1, 0, 1, 1, 1, 1}));
}

TEST_F(TaskTreeTest, ARingIsToldFromItsFirstName) {
    const std::size_t c = add("c");
    const std::size_t b = add("b");
    const std::size_t a = add("a");
    const std::size_t before = add("zz");
    wait(a, b);
    wait(b, c);
    wait(c, a);
    build();
    EXPECT_EQ(lines(), (Lines{"zz", "a", ".b", "..c", "...a*"}));
    // Entered from outside.
    wait(before, b);
    capture_.clear();
    build();
    EXPECT_EQ(lines(), (Lines{"zz", ".b", "..c", "...a", "....b*"}));
}

TEST_F(TaskTreeTest, TwoThatWaitForEachOtherAreToldBoth) {
    const std::size_t one = add("one");
    const std::size_t two = add("two");
    wait(one, two);
    wait(two, one);
    build();
    EXPECT_EQ(lines(), (Lines{"one", ".two", "..one*"}));
}

class DeepTree : public TaskTreeTest, public testing::WithParamInterface<bool> {};

TEST_P(DeepTree, AChainThatIsTooDeepBeginsAnew) {
    constexpr std::size_t kDepth = 64;  // places below each other
    constexpr std::size_t kTasks = 3 * kDepth + 5;
    const bool is_reversed = GetParam();
    for (std::size_t i = 0; i < kTasks; ++i) {
        add("Task-" + std::to_string(is_reversed ? 999 - i : 100 + i));
        if (i > 0) {
            wait(i - 1, i);
        }
    }
    build();
    std::size_t most = 0;
    std::size_t places = 0;
    std::map<std::uint32_t, std::size_t> in_full;
    tree_.visit([&](const TaskTree::Node& node) {
        most = std::max(most, node.depth);
        in_full[node.task] += node.is_repeated ? 0 : 1;
        if (places < kDepth) {
            EXPECT_EQ(node.depth, places);
            EXPECT_EQ(node.task, places);
        }
        ++places;
        return true;
    });
    EXPECT_EQ(most, kDepth - 1);
    EXPECT_LE(places, 2 * kTasks);
    ASSERT_EQ(in_full.size(), kTasks);
    for (const auto& [task, times] : in_full) {
        EXPECT_EQ(times, 1U) << task;
    }
}

INSTANTIATE_TEST_SUITE_P(Names, DeepTree, testing::Bool());

TEST_F(TaskTreeTest, EachTaskIsToldInFullOnceAndEachLinkOnce) {
    // Whoever has a smaller number waits for one with a larger one, some of them for a smaller.
    constexpr std::size_t kTasks = 60;
    std::size_t links = 0;
    for (std::size_t i = 0; i < kTasks; ++i) {
        add(std::to_string(i * 37 % kTasks));
    }
    for (std::size_t i = 0; i < kTasks; ++i) {
        for (std::size_t j = 0; j < kTasks; ++j) {
            if (i != j && (i < j ? (i + j) % 3 == 0 : (i * j) % 11 == 3)) {
                wait(i, j);
                ++links;
            }
        }
    }
    build();
    std::size_t below = 0;
    std::size_t in_full = 0;
    tree_.visit([&](const TaskTree::Node& node) {
        below += node.depth > 0;
        in_full += !node.is_repeated;
        return true;
    });
    EXPECT_EQ(in_full, kTasks);
    EXPECT_EQ(below, links);
}

TEST_F(TaskTreeTest, AVisitEndsWhenItIsToldTo) {
    const std::size_t waiter = add("a");
    const std::size_t awaited = add("b");
    add("c");
    wait(waiter, awaited);
    build();
    for (std::size_t most = 1; most <= 3; ++most) {
        std::size_t visits = 0;
        tree_.visit([&](const TaskTree::Node&) { return ++visits < most; });
        EXPECT_EQ(visits, most);
    }
    EXPECT_EQ(lines(), (Lines{"a", ".b", "c"})) << "another visit tells all again";
}

TEST_F(TaskTreeTest, OneThreadsTreeHasNothingOfTheOthers) {
    add("first");
    add("x");
    wait(0, 1);
    build();
    tasks_.clear();
    callbacks_.clear();
    add("y");
    add("second");
    wait(1, 0);
    build();
    EXPECT_EQ(lines(), (Lines{"second", ".y"}));
    EXPECT_EQ(tree_.id(2), 1U) << "of the task that is the third in the capture";
}

}  // namespace
}  // namespace echion::report
