#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/mapping.h"
#include "cpython/asyncio.h"
#include "cpython/frame_walker.h"
#include "sampling/interpreters.h"
#include "sampling/python_memory.h"
#include "sampling/task_labels.h"
#include "sampling/thread_table.h"

namespace echion::sampling {

/// Puts asyncio's tasks into the stacks of the threads that run them:
///
///     thread's entry … event loop │ label and coroutines of who waits for the task, …
///                                 │ label of the task, its coroutines … code on the CPU
///
/// All is read along with the stack, in the same round of copies and under the same proof; what one
/// walk needed is copied ahead in the next round. Of several tasks that wait for the same one, each
/// is taken by turns. Sampler thread only.
class RunningTasks {
  public:
    RunningTasks(PythonMemory& memory, Interpreters& interpreters, TaskLabels& labels)
        : memory_(memory), interpreters_(interpreters), labels_(labels) {}
    /// `is_wanted`: false where stacks are to have no tasks.
    Status reserve(std::size_t max_frames, bool is_wanted);
    /// Python is another one, or there is none.
    void forget();

    /// Looks for asyncio again where modules have been imported, from time to time. Not within a
    /// round. True when it has been found.
    bool look(std::int64_t now_ns);
    /// Whether a thread may run a task: its stack is read then, as the kernel's copies have no
    /// tasks.
    [[nodiscard]] bool may_run_tasks() const { return has_met_tasks_; }
    /// An event loop has been met.
    void note_loop() { has_met_tasks_ = true; }
    /// Whether asyncio is there, as far as is known, for threads of that interpreter.
    [[nodiscard]] bool has_asyncio(const TrackedThread& thread) const;

    /// How often not all could be read.
    [[nodiscard]] std::uint64_t cut() const { return cut_; }

    struct Inserted {
        std::size_t count = 0;  ///< frames in `raw` by now
        bool is_cut = false;    ///< there was no room for all
        bool has_task = false;  ///< the thread runs one
    };
    /// `raw`: the frames of a stack that has just been walked, newest first, so many at `places`;
    /// there is room for more.
    Inserted insert(TrackedThread& thread, std::span<cpython::RawFrame> raw,
                    std::span<const Address> places);

  private:
    // Tasks that run on one stack: those that another has started on the spot (eager tasks).
    static constexpr std::size_t kMaxNested = 8;
    static constexpr std::size_t kMaxWaiters = 8;
    static constexpr std::size_t kMaxChain = 16;
    static constexpr std::int64_t kLookAgainNs = 50'000'000;

    struct Running {
        Address task;
        Address name;
        std::size_t outermost;  // place of its first frame on the stack
        // Coroutines in front of that which are not on the stack, the outermost first.
        std::array<cpython::RawFrame, kMaxChain> skipped;
        std::size_t skipped_count;
    };
    // Where asyncio keeps which tasks run, up to 3.13; by place of the interpreter.
    struct Module {
        Address interpreter;
        Address current_tasks;  // dict; null: not found
        std::intptr_t modules;  // how many were imported when it was looked for
    };

    bool may_run(MemoryReader& reader, const TrackedThread& thread) const;
    std::size_t find_running(cpython::ObjectReader& objects, const TrackedThread& thread,
                             std::span<const Address> places);
    void add_running(cpython::ObjectReader& objects, Address task, std::span<const Address> places);
    bool push_waiters(cpython::ObjectReader& objects, Address task,
                      std::span<const Address> places);
    bool push(const cpython::RawFrame& frame);
    bool push_label(cpython::ObjectReader& objects, Address name);

    PythonMemory& memory_;
    Interpreters& interpreters_;
    TaskLabels& labels_;
    cpython::Asyncio asyncio_;
    bool is_wanted_ = true;
    bool has_met_tasks_ = false;
    std::int64_t looked_ns_ = 0;
    std::array<Module, cpython::kMaxInterpreters> modules_{};
    std::array<Running, kMaxNested> running_{};
    std::size_t running_count_ = 0;
    std::uint32_t turn_ = 0;
    FixedArray<cpython::RawFrame> composed_;  // root first
    FixedArray<cpython::RawFrame> chain_;     // of one task that waits, outermost first
    std::size_t composed_count_ = 0;
    bool is_whole_ = true;  // what has been composed, as far as can be told
    std::uint64_t cut_ = 0;
};

}  // namespace echion::sampling
