#include "report/task_tree.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <string_view>

namespace echion::report {
namespace {

/// The tasks that one stands below.
std::span<const std::uint32_t> tasks_above(const capture::TaskStore& tasks, std::size_t index) {
    const capture::CapturedTask& task = tasks.task(index);
    const auto waiters = tasks.waiters(task);
    const bool has_parent = task.parent != capture::CapturedTask::kNone;
    return waiters.empty() && has_parent ? std::span(&task.parent, 1) : waiters;
}

}  // namespace

Status TaskTree::reserve() {
    if (is_reserved_) {
        return {};
    }
    constexpr std::size_t kTasks = capture::TaskStore::kMaxTasks;
    auto order = ReservedArray<std::uint32_t>::make(kTasks);
    auto ids = ReservedArray<std::uint32_t>::make(kTasks);
    auto child_from = ReservedArray<std::uint32_t>::make(kTasks + 2);
    auto children = ReservedArray<std::uint32_t>::make(capture::TaskStore::kMaxWaiters + kTasks);
    auto is_told = ReservedArray<std::uint8_t>::make(kTasks);
    auto has_waiter = ReservedArray<std::uint8_t>::make(kTasks);
    if (!order || !ids || !child_from || !children || !is_told || !has_waiter) {
        return fail(ErrorKind::kNoSpace, "reserve memory for tasks");
    }
    order_ = std::move(*order);
    ids_ = std::move(*ids);
    child_from_ = std::move(*child_from);
    children_ = std::move(*children);
    is_told_ = std::move(*is_told);
    has_waiter_ = std::move(*has_waiter);
    is_reserved_ = true;
    return {};
}

Status TaskTree::build(const capture::TaskStore& tasks, std::size_t first, std::size_t count) {
    count_ = 0;
    if (auto status = reserve(); !status) {
        return status;
    }
    first_ = static_cast<std::uint32_t>(first);
    std::size_t links = 0;
    for (std::size_t i = 0; i < count; ++i) {
        links += tasks_above(tasks, first_ + i).size();
    }
    if (!order_.grow_to(count) || !ids_.grow_to(count) || !child_from_.grow_to(count + 2) ||
        !children_.grow_to(links) || !is_told_.grow_to(count) || !has_waiter_.grow_to(count)) {
        return fail(ErrorKind::kNoSpace, "take memory for tasks");
    }
    for (std::size_t i = 0; i < count; ++i) {
        order_[i] = first_ + static_cast<std::uint32_t>(i);
        has_waiter_[i] = !tasks_above(tasks, first_ + i).empty();
    }
    std::sort(order_.data(), order_.data() + count, [&](std::uint32_t a, std::uint32_t b) {
        const std::string_view one = tasks.text(tasks.task(a).name);
        const std::string_view other = tasks.text(tasks.task(b).name);
        if (one.size() != other.size()) {
            return one.size() < other.size();
        }
        return one != other ? one < other : a < b;
    });
    // Children by counting: how many each has, where they begin, then one after the other by id.
    std::memset(child_from_.data(), 0, (count + 2) * sizeof(std::uint32_t));
    for (std::size_t i = 0; i < count; ++i) {
        for (const std::uint32_t waiter : tasks_above(tasks, first_ + i)) {
            ++child_from_[waiter - first_ + 2];
        }
    }
    for (std::size_t i = 2; i < count + 2; ++i) {
        child_from_[i] += child_from_[i - 1];
    }
    for (std::size_t i = 0; i < count; ++i) {
        ids_[order_[i] - first_] = static_cast<std::uint32_t>(i) + 1;
        for (const std::uint32_t waiter : tasks_above(tasks, order_[i])) {
            children_[child_from_[waiter - first_ + 1]++] = order_[i];
        }
    }
    count_ = count;
    return {};
}

bool TaskTree::visit_from(std::uint32_t root, FunctionRef<bool(const Node&)> visit) {
    struct Level {
        std::uint32_t task;
        std::size_t next;  // of its children
    };
    std::array<Level, kMaxDepth> levels;
    std::size_t depth = 0;
    const auto tell = [&](std::uint32_t task) {
        const bool is_repeated = is_told_[task - first_] != 0;
        is_told_[task - first_] = 1;
        levels[depth] = {task, is_repeated ? child_count(task) : 0};
        return visit(Node{task, id(task), depth, is_repeated, child_count(task)});
    };
    if (!tell(root)) {
        return false;
    }
    while (true) {
        Level& level = levels[depth];
        if (level.next == child_count(level.task) || depth + 1 == kMaxDepth) {
            if (depth == 0) {
                return true;
            }
            --depth;
            continue;
        }
        const std::uint32_t child = children_[child_from_[level.task - first_] + level.next++];
        ++depth;
        if (!tell(child)) {
            return false;
        }
    }
}

void TaskTree::visit(FunctionRef<bool(const Node&)> visit) {
    if (count_ == 0) {
        return;
    }
    std::memset(is_told_.data(), 0, count_);
    // First those that nobody waits for; then what is left: of rings, and of chains that were cut.
    for (const bool with_waiter : {false, true}) {
        for (std::size_t i = 0; i < count_; ++i) {
            const std::uint32_t task = order_[i];
            if ((has_waiter_[task - first_] != 0) == with_waiter && is_told_[task - first_] == 0 &&
                !visit_from(task, visit)) {
                return;
            }
        }
    }
}

}  // namespace echion::report
