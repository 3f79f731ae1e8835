#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/error.h"
#include "base/mapping.h"
#include "code/code_registry.h"
#include "cpython/asyncio.h"
#include "sampling/changed_stacks.h"
#include "sampling/interpreters.h"
#include "sampling/loop_codes.h"
#include "sampling/python_memory.h"
#include "sampling/running_tasks.h"
#include "sampling/sampler_options.h"
#include "sampling/stack_codes.h"
#include "sampling/task_sweep.h"
#include "sampling/task_threads.h"
#include "sampling/thread_table.h"

namespace echion::sampling {

/// Sees to it that the tasks of event loops have their wall time: every task that waits for no
/// other task has all of it, in the stack of its thread while it runs, and in one of its own
/// (TaskThreads) while it is suspended. A loop that waits has none itself then.
///
/// Only the thread that runs a loop changes what its tasks are: as long as that has not run, they
/// are not read again. Otherwise they are read in turns (TaskSweep), along with the thread's stack
/// and under the same proof, as many in one tick as its share of time allows; a task's stack counts
/// until another one has been seen. Sampler thread only.
class SuspendedTasks {
  public:
    SuspendedTasks(PythonMemory& memory, TickStream& ticks, Interpreters& interpreters,
                   ChangedStacks& changed, code::CodeRegistry& codes, StackCodes& stack_codes,
                   LoopCodes& loop_codes, RunningTasks& running, TaskLabels& labels,
                   const SamplerOptions& options)
        : memory_(memory),
          ticks_(ticks),
          interpreters_(interpreters),
          changed_(changed),
          codes_(codes),
          stack_codes_(stack_codes),
          loop_codes_(loop_codes),
          running_(running),
          options_(options),
          threads_(ticks, interpreters, labels, options) {}

    /// Python is another one, or there is none.
    void forget();

    /// Reads some tasks of the loop that the thread runs, if it does, in the round in which its
    /// stack has been copied: `places` of its frames. `is_waiting`: it does not run Python code.
    void read(TrackedThread& thread, std::span<const Address> places, bool is_waiting);
    /// The frames of what read() has read: their code objects are to be compared.
    [[nodiscard]] std::span<const cpython::RawFrame> frames_read(const TrackedThread& thread) const;
    /// What read() has read is proved up to here. Gives the frames their ids, which may take reads.
    void assign(const TrackedThread& thread);
    /// It could not be proved.
    void drop(const TrackedThread& thread);

    /// The thread's stack has been proved and written, `refs`, root first. `runs_task`: it runs
    /// one; `may_run_python`: it holds the GIL, or needs none. Writes what is new of its tasks, and
    /// returns which part of its time is its own: 0 or 1.
    std::uint32_t accept(TrackedThread& thread, std::span<const stream::FrameRef> refs,
                         bool runs_task, bool may_run_python);
    /// asyncio has been found, perhaps since the thread came to rest.
    void look_for_loop(TrackedThread& thread);
    /// Ends the tasks of threads that have ended. Before a tick's end.
    void end_orphans();
    /// What the stream has been told is void.
    void forget_announcements();

    /// How often not all could be read or written.
    [[nodiscard]] std::uint64_t cut() const;

  private:
    static constexpr std::size_t kMaxLoops = 32;
    // How often a thread is asked whether it runs a loop, where that takes more than one read, and
    // asyncio's module is looked for.
    static constexpr std::int64_t kLookAgainNs = 5'000'000;
    // As long a clock that stands still is taken for rest (StackReader).
    static constexpr std::int64_t kLongestRestNs = 100'000'000;
    // The share of an interval that reading tasks may take, of one thread: while it waits, and
    // while it runs, as it can be held up.
    static constexpr std::int64_t kWaitingShare = 20;
    static constexpr std::int64_t kRunningShare = 50;
    static constexpr std::int64_t kMostReadNs = 1'000'000;

    struct Loop {
        Loop(PythonMemory& memory, code::CodeRegistry& codes, StackCodes& stack_codes,
             cpython::Asyncio& asyncio)
            : sweep(memory, codes, stack_codes, asyncio) {}

        TrackedThread* owner = nullptr;  // null: free
        std::uint32_t owner_id = 0;
        Address address;
        bool has_memory = false;
        bool has_read = false;  // in this round
        bool must_publish = false;
        TaskThreads::Progress progress;  // of the sweep, once it is complete
        bool is_outdated = false;        // the thread may have run since the sweep began
        std::int64_t spent_ns = 0;       // on it, and on what was written of it
        std::int64_t swept_ns = 0;       // when it began, …
        std::int64_t swept_cpu_ns = 0;   // … and the thread's CPU time by then
        TaskSweep sweep;
        FixedArray<stream::FrameRef> prefix;  // the thread's stack while the loop waits, root first
        std::size_t prefix_count = 0;
        std::uint32_t prefix_numbering = 0;
        bool has_waited = false;      // the prefix is that of a loop that waits
        bool has_loop_frame = false;  // it is asyncio's own, written in Python
        std::size_t task_threads = 0;
    };
    [[nodiscard]] Loop* find(const TrackedThread& thread);
    [[nodiscard]] const Loop* find(const TrackedThread& thread) const;
    Address find_running_loop(TrackedThread& thread);
    Loop* open(TrackedThread& thread, Address address);
    void close(Loop& loop);
    void read_on(TrackedThread& thread, bool must_read_on);
    bool begin_sweep(Loop& loop, const TrackedThread& thread);
    [[nodiscard]] std::int64_t most_ns(bool is_waiting) const;
    void note_stack(Loop& loop, std::span<const stream::FrameRef> refs, bool runs_task,
                    bool may_run_python);

    PythonMemory& memory_;
    TickStream& ticks_;
    Interpreters& interpreters_;
    ChangedStacks& changed_;
    code::CodeRegistry& codes_;
    StackCodes& stack_codes_;
    LoopCodes& loop_codes_;
    RunningTasks& running_;
    const SamplerOptions& options_;
    TaskThreads threads_;
    cpython::Asyncio asyncio_;
    std::array<std::optional<Loop>, kMaxLoops> loops_;
    std::size_t loop_count_ = 0;
    std::uint64_t cut_ = 0;
};

}  // namespace echion::sampling
