#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/mapping.h"
#include "cpython/runtime_view.h"
#include "memory/page_batch.h"
#include "sampling/thread_table.h"

namespace echion::sampling {

/// A GIL, which one interpreter has or (3.8 to 3.11) all share.
struct Gil {
    Address address;
    cpython::GilState sampled;  ///< when the stacks were last read
    bool is_known;              ///< `sampled` holds something
    Address unknown_holder;     ///< a last holder that no list had: a thread that has ended
    /// CLOCK_MONOTONIC up to which `sampled` is known to have held: in this tick, and when the tick
    /// before ended.
    std::int64_t held_ns;
    std::int64_t held_before_ns;
};

struct Interpreter {
    cpython::InterpreterHead head;
    std::uint32_t gil;         ///< place among the GILs
    Address threads_head;      ///< as last read
    bool list_changed;         ///< walk its list of threads
    std::uint64_t walked;      ///< the last ask_for_lists() before its last whole walk
    std::uint32_t torn_walks;  ///< walks in a row that were not whole
    PageBatch::Handle threads_head_copy;
    PageBatch::Handle collecting_copy;
    PageBatch::Handle requester_copy;
    bool is_collecting;
    Address stop_requester;  ///< free-threaded: the state that has all others stopped
};

/// The interpreters of the process and their GILs, as they were last read. Threads refer to their
/// interpreter by its place. Sampler thread only.
class Interpreters {
  public:
    /// Where an interpreter that was there before stands now: its place, or kGone.
    static constexpr std::uint32_t kGone = cpython::kMaxInterpreters;
    using Moves = std::array<std::uint32_t, cpython::kMaxInterpreters>;

    static Result<Interpreters> make(const cpython::Layout& layout);

    [[nodiscard]] std::uint32_t count() const { return count_; }
    [[nodiscard]] Interpreter& operator[](std::uint32_t i) { return interpreters_[i]; }
    [[nodiscard]] const Interpreter& operator[](std::uint32_t i) const { return interpreters_[i]; }
    [[nodiscard]] std::uint32_t gil_count() const { return gil_count_; }
    /// Whether the GILs are there in name only: each thread may change its stack at any moment.
    [[nodiscard]] bool are_free_threaded() const { return are_free_threaded_; }
    [[nodiscard]] Gil& gil(std::uint32_t i) { return gils_[i]; }
    [[nodiscard]] Interpreter& of(const TrackedThread& thread) {
        return interpreters_[thread.interpreter];
    }
    [[nodiscard]] const Interpreter& of(const TrackedThread& thread) const {
        return interpreters_[thread.interpreter];
    }
    [[nodiscard]] const Gil& gil_of(const TrackedThread& thread) const {
        return gils_[of(thread).gil];
    }

    [[nodiscard]] bool are(std::span<const cpython::InterpreterHead> heads) const;
    /// Where each of those that are known stands among `heads`.
    [[nodiscard]] Moves find_moves(std::span<const cpython::InterpreterHead> heads) const;
    void replace(std::span<const cpython::InterpreterHead> heads);
    void clear() { count_ = gil_count_ = 0; }

    void mark_lists();
    /// Has all lists walked anew. Returns what have_been_walked() takes.
    std::uint64_t ask_for_lists();
    [[nodiscard]] std::uint64_t asks() const { return asks_; }
    /// Whether all lists have been walked, from end to end, since that ask_for_lists().
    [[nodiscard]] bool have_been_walked(std::uint64_t ask) const;
    /// Whether a list is to be walked that has not been yet.
    [[nodiscard]] bool has_changed_lists() const;
    void mark_lists_of(std::uint32_t gil_index);
    /// Whether several interpreters share the GIL.
    [[nodiscard]] bool is_shared(std::uint32_t gil_index) const;
    /// Whether any thread may run with this state. Up to 3.12 an interpreter is run with the state
    /// that it was made with, by whatever thread (Modules/_xxsubinterpretersmodule.c,
    /// _run_script_in_interpreter); then each has its own.
    [[nodiscard]] bool can_change_threads(const TrackedThread& thread) const {
        return lends_states_ && of(thread).head.id != 0;
    }

  private:
    FixedArray<Interpreter> interpreters_;
    FixedArray<Gil> gils_;
    std::uint32_t count_ = 0;
    std::uint32_t gil_count_ = 0;
    std::uint64_t asks_ = 0;
    bool lends_states_ = false;
    bool are_free_threaded_ = false;
};

}  // namespace echion::sampling
