#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/mapping.h"
#include "cpython/runtime_view.h"
#include "cpython/stack_round.h"
#include "memory/address_map.h"
#include "memory/page_batch.h"
#include "sampling/last_stack.h"

namespace echion::sampling {

/// Where a state is by the C frame that it refers to (ThreadOwners).
struct StackPlacing {
    Address c_frame;         ///< the lowest that was seen
    std::uintptr_t runs_on;  ///< pthread_t of the thread on whose stack that is; 0: of none known
    std::uint64_t answer;    ///< Interpreters::ask_for_lists(): the lists that tell; 0: no placing
};

/// What the sampler remembers of one thread state. Plain data in memory of its own, followed by the
/// frames of its last stack.
struct TrackedThread {
    static constexpr std::uint32_t kNoSlot = ~0U;

    Address state;               ///< PyThreadState
    cpython::ThreadHead head;    ///< as last read
    std::uint32_t id;            ///< in the stream
    std::uint32_t interpreter;   ///< index of its interpreter in the sampler's list
    std::uint32_t native_id;     ///< gettid(); 0 unknown
    std::uintptr_t runs_on;      ///< pthread_t of the thread that runs with it
    std::uint32_t cpu_and_one;   ///< its CPU when its stack was last read; 0: not known
    std::int64_t refused_ns;     ///< when the sampler could not go to its CPU; 0: it could
    std::int64_t asked_cpu_ns;   ///< its CPU clock before it is read in this tick; 0: not known
    std::int64_t proved_cpu_ns;  ///< likewise, of a copy that was proved
    std::uint32_t missed;        ///< list walks in a row that did not meet it
    std::uint32_t visit;         ///< number of the last list walk that met it
    cpython::StackRound::Copies copies;  ///< in the round that is being read
    bool in_use;
    bool has_begun;  ///< its thread exists and has entered its number
    /// Its thread runs with the state of another interpreter, which counts the thread's time: this
    /// one is not in the stream meanwhile.
    bool is_second;
    /// Its number is that of the thread that made it, which runs with another state: who runs with
    /// this one is not known (PyThreadState_New() for another thread). It stands for itself,
    /// without a name and a clock.
    bool is_apart;
    bool has_held_gil;     ///< while it had not begun
    bool is_placed;        ///< `runs_on` is what has been seen, whatever the state says
    StackPlacing placed;   ///< the last one
    StackPlacing placing;  ///< one that waits for the lists
    bool is_main;
    bool is_announced;          ///< defined in the stream
    bool may_have_changed;      ///< its stack has to be read in this tick
    bool is_listed_as_changed;  ///< in ChangedStacks
    bool must_read_on;          ///< its event loop is to be looked for, or tasks of that to be read
    bool has_unknown_loop;      ///< it has not been asked which event loop it runs since it ran
    bool has_run;               ///< on a CPU since its stack was last read (CpuWatch)
    bool is_on_cpu;             ///< when CpuWatch last looked
    bool has_left;              ///< its thread state is gone; CPU time may still come
    bool lives_on;              ///< likewise, but its thread goes on without Python (no CpuWatch)
    bool began_under_watch;     ///< after the sampler: all its CPU time counts
    bool has_snapshot;          ///< a stack from the kernel, of this tick
    std::uint32_t slot;         ///< in the kernel's table, or kNoSlot
    std::uint32_t slot_generation;
    bool is_without_snapshots;       ///< CpuWatch withholds them…
    std::int64_t withheld_until_ns;  ///< …until this moment, or did
    std::int64_t withheld_ns;        ///< for so long; 0: never
    std::int64_t snapshot_ns;        ///< the snapshot's own moment
    std::int64_t snapshot_tick_ns;   ///< of the tick that the snapshot came in
    std::int64_t was_read_ns;        ///< tick in which the stack was last read by the sampler
    std::int64_t missed_tick_ns;     ///< tick in which it was told to have been missed…
    std::uint64_t missed_ns;         ///< …for so long
    std::int64_t loop_looked_ns;     ///< when it was asked which event loop it runs; 0: never
    enum class Share : std::uint8_t { kAll, kNone, kUnknown } share;  ///< of its time, as told
    std::int64_t seen_ns;        ///< until when it had that stack, or was given none; 0: never
    std::size_t snapshot_first;  ///< where that stack stands
    std::size_t snapshot_count;
    std::int64_t cpu_ns;  ///< CPU clock when last read
    std::uint32_t name_bytes;
    std::uint32_t name_looks;     ///< without one, so many changes of its stack still ask for it
    char name[256];               ///< UTF-8; what is known of it, or was when it was announced
    Address between_root;         ///< Walk::root of a chain that may not be whole
    std::int64_t between_cpu_ns;  ///< its CPU clock when that was last counted
    std::int64_t last_between_cpu_ns;  ///< its CPU clock when it was last seen so
    std::uint32_t times_between;       ///< how often that was
    LastStack stack;

    [[nodiscard]] std::string_view name_view() const { return {name, name_bytes}; }
    [[nodiscard]] bool has_state() const { return in_use && !has_left; }
};

/// The threads that are being sampled. Fixed bounds; memory is taken when a thread appears and
/// kept for the next one when it goes. Sampler thread only.
class ThreadTable {
  public:
    static Result<ThreadTable> make(std::size_t max_frames);

    /// The thread whose state is at `state`, or null.
    [[nodiscard]] TrackedThread* find(Address state);
    /// Takes a new thread in, zeroed but for `state`, `id` and what is not known yet. Null when the
    /// table is full.
    TrackedThread* add(Address state);
    /// Keeps the thread, but finds it no more by its thread state.
    void forget_state(TrackedThread& thread);
    void remove(TrackedThread& thread);

    [[nodiscard]] std::size_t size() const { return index_.size(); }
    /// How many thread states have gone.
    [[nodiscard]] std::uint64_t states_gone() const { return states_gone_; }

    /// All threads, or only those whose thread state is there. A loop may remove threads and add
    /// some; it visits those that are added behind it.
    template <bool kWithState>
    class Range {
      public:
        class Iterator {
          public:
            Iterator(const ThreadTable& table, std::size_t at) : table_(table), at_(at) { skip(); }
            TrackedThread& operator*() const { return *table_.blocks_[at_]; }
            Iterator& operator++() {
                ++at_;
                skip();
                return *this;
            }
            bool operator!=(std::nullptr_t) const { return at_ < table_.slot_count_; }

          private:
            void skip() {
                while (at_ < table_.slot_count_ && !(kWithState ? table_.blocks_[at_]->has_state()
                                                                : table_.blocks_[at_]->in_use)) {
                    ++at_;
                }
            }

            const ThreadTable& table_;
            std::size_t at_;
        };

        explicit Range(const ThreadTable& table) : table_(table) {}
        [[nodiscard]] Iterator begin() const { return {table_, 0}; }
        [[nodiscard]] std::nullptr_t end() const { return nullptr; }

      private:
        const ThreadTable& table_;
    };
    [[nodiscard]] Range<false> all() const { return Range<false>(*this); }
    [[nodiscard]] Range<true> with_state() const { return Range<true>(*this); }

    /// Another state that the thread of this one runs with, of those whose `is_second` is that.
    [[nodiscard]] TrackedThread* find_other_state(const TrackedThread& thread,
                                                  bool is_second) const;
    void set_second(TrackedThread& thread, bool is_second);
    /// Threads whose is_second is set.
    [[nodiscard]] std::size_t second_count() const { return second_count_; }

  private:
    AddressMap index_;
    FixedArray<TrackedThread*> blocks_;
    // A program may limit its own address space as it runs: what no thread needs is not reserved.
    static constexpr std::size_t kMaxSegments = 64;
    std::array<Reservation, kMaxSegments> segments_;  // for blocks_per_segment_ each
    std::size_t blocks_per_segment_ = 0;
    MappingKind kind_ = MappingKind::kPrivate;
    std::byte* find_block(std::size_t slot);

    std::size_t block_bytes_ = 0;
    std::size_t max_frames_ = 0;
    std::size_t slot_count_ = 0;
    std::size_t free_hint_ = 0;
    std::size_t second_count_ = 0;
    std::uint64_t states_gone_ = 0;
};

}  // namespace echion::sampling
