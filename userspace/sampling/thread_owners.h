#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "sampling/changed_stacks.h"
#include "sampling/cpu_accounts.h"
#include "sampling/interpreters.h"
#include "sampling/own_native_ids.h"
#include "sampling/python_memory.h"
#include "sampling/thread_naming.h"
#include "sampling/thread_table.h"
#include "sampling/thread_writer.h"

namespace echion::sampling {

/// Which thread runs with which thread state.
///
/// A state names a thread, but not always its own: a new one names the thread that made it, up to
/// 3.11 until its own begins, and for good if the C API made it. Up to 3.12 any thread may run with
/// the state of a sub-interpreter.
///
/// A thread that calls code of another interpreter has a state in each, and runs with one of them
/// at a time: that one has the thread's time, and is in the stream. The others are `is_second`:
/// they are read, but not written until the thread is back in their interpreter.
///
/// A thread's own state has its numbers before the thread runs with another one. So the lists as
/// they are walked after a C frame was seen have the thread whose stack that is on; those from
/// before may only have one whose stack is farther up.
///
/// Sampler thread only.
class ThreadOwners {
  public:
    ThreadOwners(PythonMemory& memory, ThreadTable& threads, Interpreters& interpreters,
                 ChangedStacks& changed, ThreadWriter& writer, ThreadNaming& naming,
                 CpuAccounts& accounts, const SamplerOptions& options)
        : memory_(memory),
          threads_(threads),
          interpreters_(interpreters),
          changed_(changed),
          writer_(writer),
          naming_(naming),
          accounts_(accounts),
          options_(options) {}
    void open(const ProcessFacts& facts) { native_ids_.open(memory_.reader, facts); }
    /// The pthread_t of the thread that started Python.
    void set_main_thread(std::uintptr_t thread_id) { main_thread_id_ = thread_id; }

    /// What the state's head says of its thread is new.
    void describe(TrackedThread& thread);
    /// Takes in what a list's walk has read of a state that was known before.
    void update(TrackedThread& thread, const cpython::ThreadHead& head);
    /// The state is gone. Where it has CPU time that has not been written yet, the thread stays in
    /// the table, without its state.
    void end(TrackedThread& thread);
    /// Ends the thread in the stream, by its name if it has one.
    void retract(TrackedThread& thread);

    /// The GIL was given to a thread. `gil.sampled`: what it was before.
    void note_holder(const Gil& gil, const cpython::GilState& now);
    /// A thread runs with the GIL held: in the interpreter whose state it holds it with.
    void note_running(const cpython::GilState& now);
    /// The state has so many frames.
    void note_frames(TrackedThread& thread, std::size_t frame_count);
    /// Places a state on the thread on whose stack its C frame is. False if the lists have to be
    /// walked before that can be told.
    bool place_by_stack(TrackedThread& thread);
    /// Whether the thread that a state was placed on has ended, perhaps before the state's stack
    /// was copied: whose that is, the walk of the lists is to tell. Two reads where any thread may
    /// run with the state, else none.
    bool is_of_former(const TrackedThread& thread);
    /// It is not run by the thread that it was placed on: that one has its own state again.
    void displace(TrackedThread& thread);
    /// Whether a thread was found in another interpreter than was thought, since it was last asked.
    [[nodiscard]] bool take_switched() { return std::exchange(has_switched_, false); }

    /// Whether a state waits for the lists of other interpreters to be walked, since it was last
    /// asked.
    [[nodiscard]] bool take_wanted_lists() { return std::exchange(wants_lists_, false); }

  private:
    bool waits_for_end_of_former(const TrackedThread& thread);
    bool has_begun(const TrackedThread& thread);
    TrackedThread* find_owner(const TrackedThread& thread);
    void take_from_newer(TrackedThread& thread);
    void begin_apart(TrackedThread& thread);
    void set_apart(TrackedThread& thread);
    void suspend(TrackedThread& thread);
    void settle_end(TrackedThread& thread);
    void make_current(TrackedThread& thread);
    void start_account(TrackedThread& thread);
    void take_over(TrackedThread& from, TrackedThread& to);
    void place(TrackedThread& thread, std::uintptr_t runs_on);
    void forget_place(TrackedThread& thread);
    [[nodiscard]] std::uintptr_t find_by_stack(std::uintptr_t frame) const;
    bool place_running(TrackedThread& running, const cpython::GilState& now);
    [[nodiscard]] bool can_change_threads(const TrackedThread& thread) const {
        return interpreters_.can_change_threads(thread);
    }

    PythonMemory& memory_;
    ThreadTable& threads_;
    Interpreters& interpreters_;
    ChangedStacks& changed_;
    ThreadWriter& writer_;
    ThreadNaming& naming_;
    CpuAccounts& accounts_;
    const SamplerOptions& options_;
    OwnNativeIds native_ids_;
    std::uintptr_t main_thread_id_ = 0;
    bool has_switched_ = false;
    bool wants_lists_ = false;
};

}  // namespace echion::sampling
