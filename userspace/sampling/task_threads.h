#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/mapping.h"
#include "memory/address_map.h"
#include "sampling/interpreters.h"
#include "sampling/sampler_options.h"
#include "sampling/task_labels.h"
#include "sampling/task_sweep.h"
#include "sampling/thread_table.h"
#include "sampling/tick_stream.h"

namespace echion::sampling {

/// Suspended tasks in the stream: each way from a task that nobody waits for down to one that waits
/// for no other task is a thread of the stream, with the name of the thread whose loop it belongs
/// to, and with
///
///     thread's entry … loop's select │ label and coroutines of who waits, … │ of the task
///
/// for its stack. Where a task has several such ways, they share its time. What stands where it did
/// is not written again. Sampler thread only; memory is taken with the first task.
class TaskThreads {
  public:
    TaskThreads(TickStream& ticks, Interpreters& interpreters, TaskLabels& labels,
                const SamplerOptions& options)
        : ticks_(ticks), interpreters_(interpreters), labels_(labels), options_(options) {}

    /// How far the tasks of a sweep have been written.
    struct Progress {
        std::uint32_t next_task = 0;
        std::uint64_t visit = 0;
        std::size_t count = 0;  ///< ways up to here
    };
    /// Writes what is new of the tasks of a complete sweep, whose thread is announced, until
    /// `until_ns` (CLOCK_MONOTONIC) has come. `prefix`: the thread's stack while the loop waits,
    /// root first. True when all are done.
    bool publish(const TrackedThread& owner, const TaskSweep& sweep,
                 std::span<const stream::FrameRef> prefix, Progress& progress,
                 std::int64_t until_ns);
    /// Nobody looked at the tasks of that thread for so long, up to this tick.
    void write_missed(const TrackedThread& owner, std::uint64_t ns);
    /// Ends those of a thread in the stream: it has ended, or its loop has.
    void end(std::uint32_t owner_id);
    /// What the stream has been told is void.
    void forget_announcements();
    /// Ways that are not in the stream: there is no room, or a task has too many.
    [[nodiscard]] std::uint64_t cut() const { return cut_; }

  private:
    static constexpr std::size_t kMaxPaths = std::size_t{1} << 14;
    static constexpr std::size_t kMaxPathsOfTask = 8;
    static constexpr std::size_t kMaxDepth = 64;

    // The tasks of one way, as they were read, the innermost first.
    struct Path {
        std::array<std::uint32_t, kMaxDepth> records;
        std::size_t depth;
        bool is_cut;  // others wait for the outermost
    };
    struct Entry {
        Address key;
        std::uint32_t owner_id;
        std::uint32_t parts;
        std::uint64_t owner_hash;   // of what the thread is called
        std::uint64_t stack_hash;   // of the stack, but not of what is wrong with it
        std::uint64_t visit;        // number of the last publish() that met it
        std::int64_t void_look_ns;  // when that was, of what is not announced any more
        bool in_use;
        bool is_announced;
        bool was_announced;
    };
    bool reserve();
    void publish_task(const TrackedThread& owner, const TaskSweep& sweep,
                      std::span<const stream::FrameRef> prefix, Progress& progress);
    void find_paths(const TaskSweep& sweep, std::uint32_t leaf);
    bool find_paths_above(const TaskSweep& sweep, Path& path);
    bool compose(const TaskSweep& sweep, std::span<const stream::FrameRef> prefix,
                 const Path& path);
    Entry* find(Address key, std::uint32_t owner_id);
    void announce(const TrackedThread& owner, Entry& entry);
    [[nodiscard]] std::uint32_t id_of(const Entry& entry) const {
        return stream::kFirstTaskThread + static_cast<std::uint32_t>(&entry - entries_.data());
    }
    void remove(Entry& entry);

    TickStream& ticks_;
    Interpreters& interpreters_;
    TaskLabels& labels_;
    const SamplerOptions& options_;
    bool is_reserved_ = false;
    AddressMap index_;
    ReservedArray<Entry> entries_;
    std::size_t high_water_ = 0;
    std::size_t free_hint_ = 0;
    std::uint64_t visit_ = 0;
    std::uint64_t owner_hash_ = 0;   // of the thread that is being written…
    std::uint64_t prefix_hash_ = 0;  // …and of its prefix, and how ids are given
    std::array<Path, kMaxPathsOfTask> paths_{};
    std::size_t path_count_ = 0;
    FixedArray<stream::FrameRef> refs_;  // of one way, root first, up to the array's end…
    std::size_t first_ref_ = 0;          // …from here on
    std::uint64_t cut_ = 0;
};

}  // namespace echion::sampling
