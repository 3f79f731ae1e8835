#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/function_ref.h"
#include "cpython/attributes.h"
#include "cpython/containers.h"
#include "cpython/objects.h"
#include "cpython/type_kinds.h"
#include "memory/address.h"

namespace echion::cpython {

/// What a task says of itself. Null: it has none, or it cannot be read.
struct AsyncioTask {
    Address loop;
    Address coro;
    Address name;        ///< a str, or from 3.12 on an int: of "Task-<int>"
    Address fut_waiter;  ///< what it waits for; None while it is to run, or runs
    bool is_done = false;
};

/// The event loops and tasks of one interpreter, read passively: nothing is called, nothing locked.
///
///     up to 3.13       asyncio.tasks._all_tasks, or _scheduled_tasks and _eager_tasks
///     3.14 and later   lists of each thread and of the interpreter; of other types of tasks, sets
///
/// Who waits for a task or a future stands in its callbacks: what wakes a task up, or closures and
/// methods of asyncio's own that lead to another future, whose callbacks go on from there.
///
/// What it learns of modules and classes is good for one look: forget() begins another. Every walk
/// is bounded. It takes what stands in memory for what it is: that nothing changed meanwhile is its
/// caller's to prove. No allocation; one thread at a time.
/// Sources: CPython Modules/_asynciomodule.c, Lib/asyncio/, 3.8 to 3.15.
class Asyncio;

/// Where a walk over all tasks is, to go on from there.
struct TaskCursor {
    bool is_done = false;

  private:
    friend Asyncio;
    std::size_t source = 0;  // of those that there are: which one it is in
    SetCursor slot;
    std::array<Address, 4> nodes{};  // of a list: those visited last, the newest first
};

class Asyncio {
  public:
    static constexpr std::size_t kMaxTasks = std::size_t{1} << 14;
    /// Of a set's table, which does not shrink when tasks end.
    static constexpr std::size_t kMaxSlots = 16 * kMaxTasks;

    void forget();
    /// Begins a look in which only what asyncio's own objects say is asked for: all that can have
    /// changed since the last one is forgotten.
    void begin_look();

    /// Looks for asyncio in `modules` (sys.modules). kNotReady: it has not been imported.
    Status find(ObjectReader& objects, Address modules);

    /// The dict of running tasks, by event loop (up to 3.13; in later versions of tasks that are
    /// written in Python). Null: there is none.
    Result<Address> find_current_tasks(ObjectReader& objects, Address modules);

    /// The event loop that runs in a thread; null: none. Does not need find().
    Result<Address> read_running_loop(ObjectReader& objects, Address thread_state);

    /// Calls `visit` with each task of the interpreter that the sets hold, then of its list, until
    /// it returns false. A task can come twice, and what comes need not be one.
    Status visit_tasks(ObjectReader& objects, Address interpreter,
                       FunctionRef<bool(Address)> visit);
    /// The same of a thread's own list (3.14 and later).
    Status visit_tasks_of_thread(ObjectReader& objects, Address thread_state,
                                 FunctionRef<bool(Address)> visit);

    /// Both, a thread's own list first, from `cursor` on, which is moved behind what has been
    /// visited. Where the program has changed what is walked, a task may come again, or not at all.
    /// What cannot be walked is left out: the status tells of the last such thing.
    Status visit_tasks(ObjectReader& objects, Address interpreter, Address thread_state,
                       TaskCursor& cursor, FunctionRef<bool(Address)> visit);

    /// Errors: kUnreadable, kInvalid for what is no task.
    Result<AsyncioTask> read_task(ObjectReader& objects, Address task);

    /// The name of a task in `into`, which has room for "Task-" and a number; empty: it cannot be
    /// read.
    static std::string_view read_name(ObjectReader& objects, Address name, std::span<char> into);

    /// Calls `visit` with each task that waits for `future`, a task or not, directly or through
    /// gather(), wait(), wait_for(), shield(), as_completed() or a TaskGroup, until it returns
    /// false. False when not all callbacks could be followed.
    bool visit_waiters(ObjectReader& objects, Address future, FunctionRef<bool(Address)> visit);

    [[nodiscard]] TypeKinds& kinds() { return kinds_; }

  private:
    // Of the walk from a future to the tasks that wait for it.
    struct Search {
        FunctionRef<bool(Address)> visit;
        std::size_t steps_left;  // callbacks
        bool is_over = false;    // `visit` has said so, or there are too many callbacks
        bool is_whole = true;

        /// Before each callback; false: it is one too many.
        bool take_step() {
            is_over = is_over || steps_left == 0;
            is_whole = is_whole && steps_left != 0;
            steps_left -= steps_left != 0;
            return !is_over;
        }
    };
    void forget_classes();
    Status visit_source(ObjectReader& objects, Address interpreter, Address thread_state,
                        TaskCursor& cursor, FunctionRef<bool(Address)> visit);
    Status visit_weak_set(ObjectReader& objects, Address weak_set, SetCursor& cursor,
                          FunctionRef<bool(Address)> visit);
    Status visit_global(ObjectReader& objects, std::size_t number, SetCursor& cursor,
                        FunctionRef<bool(Address)> visit);
    Status visit_c_set(ObjectReader& objects, std::size_t word, SetCursor& cursor,
                       FunctionRef<bool(Address)> visit);
    Status visit_list(ObjectReader& objects, Address head, TaskCursor& cursor,
                      FunctionRef<bool(Address)> visit);
    Result<Address> find_attribute(ObjectReader& objects, AttributeFinder& finder, Address object);
    void search_future(ObjectReader& objects, Address future, int depth, Search& search);
    void search_callback(ObjectReader& objects, Address callback, int depth, Search& search);
    void search_function(ObjectReader& objects, Address function, int depth, Search& search);
    void search_method(ObjectReader& objects, Address method, int depth, Search& search);
    void search_queue(ObjectReader& objects, Address queue, int depth, Search& search);

    TypeKinds kinds_;
    Address tasks_module_;
    Address c_module_;
    FindHint module_hint_, c_module_hint_;
    FindHint all_hint_, scheduled_hint_, eager_hint_, current_hint_;
    AttributeFinder data_{"data"};
    AttributeFinder loop_{"_loop"};
    AttributeFinder coro_{"_coro"};
    AttributeFinder name_{"_name"};
    AttributeFinder fut_waiter_{"_fut_waiter"};
    AttributeFinder callbacks_{"_callbacks"};
    AttributeFinder on_completed_fut_{"_on_completed_fut"};
    AttributeFinder done_{"_done"};
    AttributeFinder getters_{"_getters"};
};

}  // namespace echion::cpython
