#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/function_ref.h"
#include "base/mapping.h"
#include "code/code_registry.h"
#include "cpython/frame_walker.h"
#include "cpython/stack_round.h"
#include "memory/page_batch.h"
#include "platform/same_cpu.h"
#include "sampling/interpreters.h"
#include "sampling/process_facts.h"
#include "sampling/python_memory.h"
#include "sampling/running_tasks.h"
#include "sampling/sampler_options.h"
#include "sampling/stack_codes.h"
#include "sampling/suspended_tasks.h"
#include "sampling/thread_owners.h"
#include "sampling/thread_table.h"

namespace echion::sampling {

/// What is known of a copy of a stack.
enum class Verdict {
    kProved,    ///< The thread stood still while it was copied.
    kUnproved,  ///< The newest frame was the same before and after; no more is known.
    kTorn,      ///< The thread may have changed it meanwhile.
};

/// One stack, as it was read.
struct ReadStack {
    TrackedThread& thread;
    const cpython::Walk& walk;
    AssignedStack assigned;  ///< with StackCodes; none of a torn one
    Verdict verdict;
    bool may_run_python;  ///< it holds the GIL; without one: it is attached
    bool runs_task;       ///< of an event loop
};

/// Copies the stacks of threads, and proves the copies.
///
/// Is a copy consistent? Nobody changes the last holder's stack but that thread itself, so it is
/// enough that it did not run while it was copied (SameCpu). For the others it is enough that the
/// GIL did not change hands meanwhile. In a free-threaded build each thread is as the holder is:
/// those that were on one CPU when last seen are copied together, from there. What cannot be proved
/// is to be read again, a few times; then it is torn.
///
/// A head that was copied can show that a state is another thread's than was thought: ThreadOwners
/// is told before the proof. Code objects that are met are defined in the stream (StackCodes), also
/// of a stack that is torn then: each of these is true by itself.
///
/// Sampler thread only; nothing allocates after start().
class StackReader {
  public:
    StackReader(PythonMemory& memory, Interpreters& interpreters, code::CodeRegistry& codes,
                StackCodes& stack_codes, ThreadOwners& owners, RunningTasks& tasks,
                SuspendedTasks& suspended, const SamplerOptions& options)
        : memory_(memory),
          interpreters_(interpreters),
          codes_(codes),
          stack_codes_(stack_codes),
          owners_(owners),
          tasks_(tasks),
          suspended_(suspended),
          options_(options) {}
    Status reserve();
    /// To be called by the thread that will read.
    void start(const ProcessFacts& facts);
    /// Lets the calling thread run on all CPUs again.
    void stop() { same_cpu_.release(); }
    /// A new tick begins, at `now_ns` (CLOCK_MONOTONIC).
    void begin_tick(std::int64_t now_ns);

    /// As many threads of a GIL as one attempt is for: the shorter, the better the chance that the
    /// GIL stays where it is.
    static constexpr std::size_t kGroup = 64;
    static constexpr int kLastAttempt = 3;
    /// Which of the threads have to be read, in an order that takes few moves: in a free-threaded
    /// build by their CPUs, this one's first, without those that have not run since.
    std::span<TrackedThread*> order(std::span<TrackedThread*> threads);
    /// Reads the stacks of a group of threads of one GIL, kGroup at most, and calls `accept` for
    /// each that was read, in their order. Returns how many are done; the next one is to be read
    /// again, or has not been read yet. `last_holder`: of the GIL, as it was before, and is after.
    /// `attempt`: 0 is the first, in which suspended tasks are read, too; kLastAttempt: those that
    /// cannot be proved are accepted as torn. One whose thread the lists have
    /// to tell first stays marked as long as such a walk is to come, and is torn then.
    std::size_t read(std::uint32_t gil_index, std::span<TrackedThread*> group, Address* last_holder,
                     int attempt, FunctionRef<void(const ReadStack&)> accept);
    /// Lets the thread that has to get past a moment in which its frames make no stack go on a
    /// little, if the last read() has met one.
    void let_pass();

    struct Counts {
        std::uint64_t torn_retried = 0;
        std::uint64_t follow_moves = 0;
        std::uint64_t table_full = 0;
        std::int64_t read_ns = 0;  ///< time in the rounds' reads
    };
    [[nodiscard]] const Counts& counts() const { return counts_; }
    [[nodiscard]] std::uint64_t system_calls() const { return same_cpu_.system_calls(); }

  private:
    // What proves that a thread stood still which may run.
    struct Evidence {
        bool is_followed;        // its CPU proves its stack: where that stands…
        std::uintptr_t runs_on;  // when the round was asked for
        PageBatch::Handle cpu;
        cpython::StackRound::Copies after;  // …or its head does, read again
    };
    // One stretch of reading, and what proves its copies.
    struct Round {
        Round(const cpython::RuntimeView& view, PageBatch& batch, std::span<TrackedThread*> threads)
            : stacks(view, batch), group(threads) {}

        cpython::StackRound stacks;
        std::span<TrackedThread*> group;
        TrackedThread* holder = nullptr;  // the last holder of the GIL, when it is in the group
        bool is_gil_held = false;
        bool reads_tasks = false;               // suspended ones
        std::array<Evidence, kGroup> evidence;  // by place in the group, of those that may_run()
    };
    struct WalkedStack {
        std::size_t first;  // in raw_
        cpython::Walk walk;
        Address head;      // newest frame
        bool is_readable;  // the thread state was still this thread's
        bool is_placed;    // it is known which thread runs with it
        bool runs_task;    // of an event loop
    };

    bool request(Round& round, std::uint32_t gil_index);
    void request_interpreters(std::uint32_t gil_index);
    void request_codes(std::span<TrackedThread*> group);
    bool has_rested(TrackedThread& thread);
    [[nodiscard]] bool may_run(const Round& round, const TrackedThread& thread) const;
    std::span<TrackedThread*> select_cpu(std::span<TrackedThread*> group);
    void request_evidence(Round& round);
    void read_interpreter_copies();
    [[nodiscard]] std::span<cpython::RawFrame> frames_of(const WalkedStack& stack) {
        return {raw_.data() + stack.first, stack.walk.count};
    }
    std::size_t walk_all(Round& round, bool is_incomplete, std::span<WalkedStack> stacks);
    void check_codes(const Round& round, TrackedThread& thread, const WalkedStack& stack);
    [[nodiscard]] bool may_run_python(const Round& round, const TrackedThread& thread) const;
    bool walk_one(const Round& round, TrackedThread& thread, cpython::StackHead head,
                  WalkedStack& out, std::size_t* raw_used);
    Verdict prove_running(const Round& round, std::size_t at, const WalkedStack& stack,
                          bool was_cold);
    bool follow(std::uint32_t cpu);
    [[nodiscard]] bool can_follow(const TrackedThread& thread) const;
    Verdict compare_heads(const Round& round, std::size_t at, const WalkedStack& stack,
                          bool was_cold);
    bool is_between_frames(TrackedThread& thread, const WalkedStack& stack, bool may_run_python,
                           bool* can_pass);
    bool still_stands(const Round& round, std::uint32_t gil_index, const cpython::GilState& before,
                      std::size_t at, const WalkedStack& stack);

    PythonMemory& memory_;
    Interpreters& interpreters_;
    code::CodeRegistry& codes_;
    StackCodes& stack_codes_;
    ThreadOwners& owners_;
    RunningTasks& tasks_;
    SuspendedTasks& suspended_;
    const SamplerOptions& options_;
    SameCpu same_cpu_;
    FixedArray<cpython::RawFrame> raw_;
    FixedArray<Address> places_;  // of the frames of one stack
    std::int64_t now_ns_ = 0;
    bool can_follow_ = false;
    // When it could not move to a CPU, and stopped following for a while.
    std::optional<std::int64_t> refused_ns_;
    bool must_pause_ = false;
    Counts counts_;
};

}  // namespace echion::sampling
