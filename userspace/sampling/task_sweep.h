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
///     begin()                    which tasks there are
///     read() … assign() … keep() some of them: their frames, names, and who waits for them
///     read() … drop()            the same, where the copies could not be proved: read again
///     is_complete()
///
/// Each step is true by itself: its caller proves that the loop's thread stood still. What has been
/// kept of an earlier step is as old as that. Memory is reserved by reserve(), and taken as it is
/// needed. Sampler thread only.
class TaskSweep {
  public:
    static constexpr std::size_t kMaxTasks = cpython::Asyncio::kMaxTasks;
    static constexpr std::uint32_t kNone = ~0U;

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
    /// Lists the tasks. False: asyncio's module cannot be found.
    bool begin(const Place& place, Address modules);
    /// Forgets all tasks.
    void clear();

    /// Reads the next tasks, one at least, until `until_ns` (CLOCK_MONOTONIC) has come. `places`:
    /// of the thread's frames.
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
        return has_begun_ && next_ == task_count_ && kept_ == task_count_ &&
               (ref_count_ == 0 || numbering_ == codes_.numbering());
    }
    /// Whether tasks wait to be read.
    [[nodiscard]] bool is_under_way() const { return has_begun_ && kept_ < task_count_; }

    enum class State : std::uint8_t {
        kUnread,
        kSuspended,  ///< or it has not begun
        kRunning,    ///< on the stack of its thread, or elsewhere
        kGone,       ///< done, another loop's, no task at all, or not readable
    };
    struct Task {
        Address task;
        State state;
        bool is_broken;     ///< its innermost frames could not be read
        bool is_truncated;  ///< there are more frames than the limit
        /// It waits for a task that is not done.
        bool waits_for_task;
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
    /// The tasks of the loop that wait for it, by index.
    [[nodiscard]] std::span<const std::uint32_t> waiters(const Task& task) const {
        return {waiters_.data() + task.first_waiter, task.waiter_count};
    }
    /// Steps that could not be read in full.
    [[nodiscard]] std::uint64_t cut() const { return cut_; }

  private:
    static constexpr std::size_t kMaxWaiters = 4 * kMaxTasks;
    static constexpr std::size_t kMaxWaitersOfTask = 64;
    static constexpr std::size_t kMaxRefs = 24 * kMaxTasks;
    static constexpr std::size_t kMaxTextBytes = 64 * kMaxTasks;
    static constexpr std::size_t kMinRawFrames = std::size_t{1} << 13;
    static constexpr std::size_t kMaxPages = 4096;

    void read_one(cpython::ObjectReader& objects, const Place& place,
                  std::span<const Address> places, Task& task);
    void read_waiters(cpython::ObjectReader& objects, Task& task);

    PythonMemory& memory_;
    code::CodeRegistry& codes_;
    StackCodes& stack_codes_;
    cpython::Asyncio& asyncio_;
    std::size_t max_frames_ = 0;
    PageCache pages_;
    AddressMap index_;
    ReservedArray<Task> tasks_;
    ReservedArray<stream::FrameRef> refs_;
    ReservedArray<std::uint32_t> waiters_;
    ReservedArray<char> texts_;
    FixedArray<cpython::RawFrame> raw_;  // of the step, each task's newest first
    std::size_t raw_count_ = 0;
    bool has_begun_ = false;
    bool is_step_over_ = false;
    std::size_t task_count_ = 0;
    std::size_t next_ = 0;  // task that is read next
    std::size_t kept_ = 0;  // tasks up to here are kept
    std::size_t ref_count_ = 0, kept_refs_ = 0;
    std::size_t waiter_count_ = 0, kept_waiters_ = 0;
    std::size_t text_bytes_ = 0, kept_text_bytes_ = 0;
    std::uint32_t numbering_ = 0;
    std::uint64_t cut_ = 0;
};

}  // namespace echion::sampling
