#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/mapping.h"
#include "code/code_registry.h"
#include "cpython/asyncio.h"
#include "cpython/frame_walker.h"
#include "memory/address_map.h"
#include "memory/page_cache.h"
#include "sampling/python_memory.h"
#include "sampling/stack_codes.h"

namespace echion::sampling {

/// Reads all tasks of one event loop, once, in as many steps as the time for it allows:
///
///     begin()
///     read() … assign() … keep()   finds tasks, and reads their frames, their names, and who
///                                  waits for them
///     read() … drop()              the same, where the copies could not be proved: read again
///     is_complete()
///
/// Each step is true by itself: its caller proves that the loop's thread stood still. What has been
/// kept of an earlier step is as old as that. Memory is reserved by reserve(), and taken as it is
/// needed. Sampler thread only.
class TaskSweep {
  public:
    static constexpr std::size_t kMaxTasks = cpython::Asyncio::kMaxTasks;
    static constexpr std::uint32_t kNone = AddressMap::kNone;

    /// `asyncio` is used by several, one after the other.
    TaskSweep(PythonMemory& memory, code::CodeRegistry& codes, StackCodes& stack_codes,
              cpython::Asyncio& asyncio)
        : memory_(memory), codes_(codes), stack_codes_(stack_codes), asyncio_(asyncio) {}
    Status reserve(std::size_t max_frames);

    /// Where a loop is.
    struct Place {
        Address interpreter;
        Address state;  ///< PyThreadState of the thread that runs it
        Address loop;
    };
    /// Begins anew. False: asyncio's module cannot be found.
    bool begin(Address modules);
    /// Forgets all tasks.
    void clear();

    /// Reads the next tasks, one at least, until `until_ns` (CLOCK_MONOTONIC) has come. `places`:
    /// of the thread's frames. The first step belongs to the round in which the sweep has begun.
    void read(const Place& place, std::span<const Address> places, std::int64_t until_ns);
    /// The frames that the step has read, of which the code objects are to be compared.
    [[nodiscard]] std::span<const cpython::RawFrame> frames() const {
        return {raw_.data(), raw_count_};
    }
    /// Gives the step's frames the ids of their code objects, which may take reads.
    void assign();
    /// Ends the step: what it has read was true.
    void keep();
    /// Forgets what the step has read.
    void drop();
    /// All tasks have been read, and what is known of them is of use yet.
    [[nodiscard]] bool is_complete() const {
        return has_begun_ && kept_cursor_.is_done && kept_ == task_count_ &&
               (ref_count_ == 0 || numbering_ == codes_.numbering());
    }
    /// Whether tasks wait to be read.
    [[nodiscard]] bool is_under_way() const {
        return has_begun_ && !(kept_cursor_.is_done && kept_ == task_count_);
    }

    enum class State : std::uint8_t {
        kSuspended,  ///< or it has not begun
        kRunning,    ///< on the stack of its thread, or elsewhere
        kGone,       ///< done, another loop's, no task at all, or not readable
    };
    struct Task {
        Address task;
        State state;
        bool is_broken;       ///< its innermost frames could not be read
        bool is_truncated;    ///< there are more frames than the limit
        bool waits_for_task;  ///< that is not done
        /// It is suspended, and waits for no task; or it is one of a ring that wait for each other
        /// and for no other task.
        bool is_leaf;
        bool is_covered;  ///< a leaf or a task that runs is below it, or it is one
        std::uint32_t name_at, name_bytes;
        std::uint32_t first_ref, ref_count;
        std::uint32_t first_waiter, waiter_count;
    };
    [[nodiscard]] std::size_t count() const { return task_count_; }
    [[nodiscard]] const Task& task(std::size_t index) const { return tasks_[index]; }
    [[nodiscard]] std::string_view name(const Task& task) const {
        return {texts_.data() + task.name_at, task.name_bytes};
    }
    /// Root first.
    [[nodiscard]] std::span<const stream::FrameRef> refs(const Task& task) const {
        return {refs_.data() + task.first_ref, task.ref_count};
    }
    /// Those that wait for it: tasks, of this loop or another one.
    [[nodiscard]] std::span<const Address> waiters(const Task& task) const {
        return {waiters_.data() + task.first_waiter, task.waiter_count};
    }
    /// The index of a task, or kNone.
    [[nodiscard]] std::uint32_t find(Address task) const { return index_.find(task); }
    /// Steps that could not be read in full.
    [[nodiscard]] std::uint64_t cut() const { return cut_; }

  private:
    static constexpr std::size_t kMaxWaiters = 4 * kMaxTasks;
    static constexpr std::size_t kMaxWaitersOfTask = 64;
    static constexpr std::size_t kMaxRefs = 24 * kMaxTasks;
    static constexpr std::size_t kMaxTextBytes = 64 * kMaxTasks;
    static constexpr std::size_t kMinRawFrames = std::size_t{1} << 13;
    static constexpr std::size_t kMaxPages = 4096;
    // A sweep of so few pages, in one step, has them copied at once the next time.
    static constexpr std::size_t kMaxPagesAhead = 256;
    // Tasks and repetitions that a sweep may come across.
    static constexpr std::size_t kMaxVisits = 4 * kMaxTasks;

    bool visit(cpython::ObjectReader& objects, const Place& place, std::span<const Address> places,
               Address task, std::int64_t until_ns);
    void read_one(cpython::ObjectReader& objects, const Place& place,
                  std::span<const Address> places, Task& task);
    void read_waiters(cpython::ObjectReader& objects, Task& task);
    void find_leaves();
    void cover(std::uint32_t task);

    PythonMemory& memory_;
    code::CodeRegistry& codes_;
    StackCodes& stack_codes_;
    cpython::Asyncio& asyncio_;
    std::size_t max_frames_ = 0;
    PageCache pages_;
    AddressMap index_;
    ReservedArray<Task> tasks_;
    ReservedArray<stream::FrameRef> refs_;
    ReservedArray<Address> waiters_;
    ReservedArray<char> texts_;
    ReservedArray<std::uint32_t> to_cover_;
    FixedArray<cpython::RawFrame> raw_;  // of the step, each task's newest first
    std::size_t raw_count_ = 0;
    bool has_begun_ = false;
    std::size_t steps_ = 0;
    std::size_t visits_ = 0;
    cpython::TaskCursor cursor_, kept_cursor_;
    std::size_t task_count_ = 0;
    std::size_t kept_ = 0;  // tasks up to here are kept
    std::size_t ref_count_ = 0, kept_refs_ = 0;
    std::size_t waiter_count_ = 0, kept_waiters_ = 0;
    std::size_t text_bytes_ = 0, kept_text_bytes_ = 0;
    std::uint32_t numbering_ = 0;
    std::uint64_t cut_ = 0;
};

}  // namespace echion::sampling
