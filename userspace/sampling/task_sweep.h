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
/// Each step is true by itself: its caller proves that the loop's thread stood still. So a task is
/// read with all that wait for it, however often those have been read before: what belongs together
/// comes from one step. What has been kept of an earlier one is as old as that. Memory is reserved
/// by reserve(), and taken as it is needed. Sampler thread only.
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
        return has_begun_ && kept_cursor_.is_done && kept_records_ == record_count_ &&
               (ref_count_ == 0 || numbering_ == codes_.numbering());
    }
    /// Whether tasks wait to be read.
    [[nodiscard]] bool is_under_way() const {
        return has_begun_ && !(kept_cursor_.is_done && kept_records_ == record_count_);
    }

    enum class State : std::uint8_t {
        kSuspended,  ///< or it has not begun
        kRunning,    ///< on the stack of its thread, or elsewhere
        kGone,       ///< done, another loop's, no task at all, or not readable
    };
    /// A task as one step has read it, which can be more than once.
    struct Record {
        std::uint32_t task;  ///< index
        Address waits_for;   ///< the future that it waits for, which may be a task
        std::uint32_t name_at, name_bytes;
        std::uint32_t first_ref, ref_count;
        std::uint32_t first_waiter, waiter_count;
        State state;
        bool is_broken;     ///< its innermost frames could not be read
        bool is_truncated;  ///< there are more frames than the limit
        bool has_waiters;   ///< who waits for it has been read
    };
    /// Whether a leaf or a task that runs is below a task, or it is one.
    enum class Cover : std::uint8_t {
        kNone,
        kTried,  ///< one that may be no leaf
        kFull,
    };
    struct Task {
        Address task;
        std::uint32_t own_record;     ///< of the step that came across it, or kNone
        std::uint32_t newest_record;  ///< of any step…
        std::size_t step;             ///< …this one
        bool waits_for_task;          ///< that is not done
        /// It is suspended, and waits for no task; or it is one of a ring that wait for each other
        /// and for no other task.
        bool is_leaf;
        Cover cover;
    };
    [[nodiscard]] std::size_t count() const { return task_count_; }
    [[nodiscard]] const Task& task(std::size_t index) const { return tasks_[index]; }
    [[nodiscard]] const Record& record(std::uint32_t index) const { return records_[index]; }
    [[nodiscard]] std::string_view name(const Record& record) const {
        return {texts_.data() + record.name_at, record.name_bytes};
    }
    /// Root first.
    [[nodiscard]] std::span<const stream::FrameRef> refs(const Record& record) const {
        return {refs_.data() + record.first_ref, record.ref_count};
    }
    /// Records of the tasks of the loop that waited for it, in the same step.
    [[nodiscard]] std::span<const std::uint32_t> waiters(const Record& record) const {
        return {waiters_.data() + record.first_waiter, record.waiter_count};
    }
    /// Of the ids in refs(): CodeRegistry::numbering().
    [[nodiscard]] std::uint32_t numbering() const { return numbering_; }
    /// Steps that could not be read in full.
    [[nodiscard]] std::uint64_t cut() const { return cut_; }

  private:
    static constexpr std::size_t kMaxRecords = 4 * kMaxTasks;
    static constexpr std::size_t kMaxWaiters = 4 * kMaxRecords;
    static constexpr std::size_t kMaxWaitersOfTask = 256;
    static constexpr int kMaxDepth = 64;
    static constexpr std::size_t kMaxRefs = 32 * kMaxTasks;
    static constexpr std::size_t kMaxTextBytes = 128 * kMaxTasks;
    static constexpr std::size_t kMinRawFrames = std::size_t{1} << 14;
    static constexpr std::size_t kMaxPages = 4096;
    // A sweep of so few pages, in one step, has them copied at once the next time.
    static constexpr std::size_t kMaxPagesAhead = 256;
    // Tasks and repetitions that a sweep may come across.
    static constexpr std::size_t kMaxVisits = 4 * kMaxTasks;

    bool visit(cpython::ObjectReader& objects, const Place& place, std::span<const Address> places,
               Address task, std::int64_t until_ns);
    std::uint32_t find_or_add(Address task);
    std::uint32_t read_record(cpython::ObjectReader& objects, const Place& place,
                              std::span<const Address> places, Address task);
    void fill(cpython::ObjectReader& objects, const Place& place, std::span<const Address> places,
              Address task, Record& record);
    void read_waiters(cpython::ObjectReader& objects, const Place& place,
                      std::span<const Address> places, std::uint32_t record, int depth);
    void find_leaves();
    [[nodiscard]] bool waits_for_covered(std::uint32_t task) const;
    [[nodiscard]] std::uint32_t find_waited_for(std::uint32_t task) const;
    void cover(std::uint32_t task, Cover cover);

    PythonMemory& memory_;
    code::CodeRegistry& codes_;
    StackCodes& stack_codes_;
    cpython::Asyncio& asyncio_;
    std::size_t max_frames_ = 0;
    PageCache pages_;
    AddressMap index_;  // task → index
    ReservedArray<Task> tasks_;
    ReservedArray<stream::FrameRef> refs_;
    ReservedArray<Record> records_;
    ReservedArray<std::uint32_t> waiters_;
    ReservedArray<char> texts_;
    ReservedArray<std::uint32_t> to_cover_;
    FixedArray<cpython::RawFrame> raw_;  // of the step, each task's newest first
    std::size_t raw_count_ = 0;
    bool has_begun_ = false;
    std::size_t steps_ = 0;
    std::size_t visits_ = 0;
    cpython::TaskCursor cursor_, kept_cursor_;
    std::size_t task_count_ = 0, kept_tasks_ = 0;
    std::size_t record_count_ = 0, kept_records_ = 0;
    std::size_t ref_count_ = 0, kept_refs_ = 0;
    std::size_t waiter_count_ = 0, kept_waiters_ = 0;
    std::size_t text_bytes_ = 0, kept_text_bytes_ = 0;
    std::uint32_t numbering_ = 0;
    std::uint64_t cut_ = 0;
};

}  // namespace echion::sampling
