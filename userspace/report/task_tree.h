#pragma once

#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "base/function_ref.h"
#include "base/mapping.h"
#include "capture/task_store.h"

namespace echion::report {

/// The tasks of one thread, in the order in which a report tells them: those that no other task
/// waits for, and below each the tasks that it waits for. Tasks that stand beside each other are
/// ordered by their names, shorter ones first, so that Task-2 comes before Task-10. Or its
/// greenlets: one that none waits for stands below its parent.
///
/// Memory is reserved by the first build(). One thread at a time.
class TaskTree {
  public:
    /// One place in the tree.
    struct Node {
        std::uint32_t task;    ///< index in the capture
        std::uint32_t id;      ///< from 1 on, by name
        std::size_t depth;     ///< 0: nobody waits for it
        bool is_repeated;      ///< it has been told before, with what is below it
        std::size_t children;  ///< how many tasks it waits for
    };

    /// Lays out `count` tasks from `first` on. They are to stay as they are until the last visit.
    Status build(const capture::TaskStore& tasks, std::size_t first, std::size_t count);

    /// Calls `visit` for each place in the tree, in its order, until it returns false. A task that
    /// several wait for has several places, all but the first repeated.
    void visit(FunctionRef<bool(const Node&)> visit);

    /// The task with an id, and the reverse.
    [[nodiscard]] std::uint32_t task(std::uint32_t id) const { return order_[id - 1]; }
    [[nodiscard]] std::uint32_t id(std::uint32_t task) const { return ids_[task - first_]; }
    /// Of the tasks that a task waits for, the first.
    [[nodiscard]] std::uint32_t first_child(std::uint32_t task) const {
        return children_[child_from_[task - first_]];
    }
    [[nodiscard]] std::size_t child_count(std::uint32_t task) const {
        return child_from_[task - first_ + 1] - child_from_[task - first_];
    }

  private:
    // Below that the tree is cut: a chain of so many tasks is told as if it began anew.
    static constexpr std::size_t kMaxDepth = 64;

    Status reserve();
    bool visit_from(std::uint32_t root, FunctionRef<bool(const Node&)> visit);

    bool is_reserved_ = false;
    std::uint32_t first_ = 0;
    std::size_t count_ = 0;
    ReservedArray<std::uint32_t> order_;       // tasks by id
    ReservedArray<std::uint32_t> ids_;         // by task
    ReservedArray<std::uint32_t> child_from_;  // by task: where its children begin, and the end
    ReservedArray<std::uint32_t> children_;    // tasks, by id below each
    ReservedArray<std::uint8_t> is_told_;      // by task
    ReservedArray<std::uint8_t> has_waiter_;   // likewise
};

}  // namespace echion::report
