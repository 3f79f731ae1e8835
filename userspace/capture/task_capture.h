#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/mapping.h"
#include "cpython/asyncio.h"
#include "cpython/coroutines.h"
#include "cpython/frame_walker.h"
#include "cpython/layout.h"
#include "memory/address_map.h"
#include "memory/page_cache.h"
#include "memory/reader.h"

namespace echion::capture {

enum class TaskState : std::uint8_t {
    kSuspended,
    kRunning,     ///< its frames are on the thread's stack
    kNotStarted,  ///< it waits for its first turn
    kFinished,    ///< its coroutine has ended
    kElsewhere,   ///< it is executed, but not on the thread's stack as it was copied
};

/// A piece of text that a TaskCapture keeps.
struct TextPiece {
    std::uint32_t from = 0;
    std::uint32_t size_bytes = 0;
};

/// One task of an event loop that a thread runs.
struct CapturedTask {
    static constexpr std::uint32_t kNone = ~0U;

    Address task;
    TaskState state;
    TextPiece name;
    std::uint32_t waits_for;   ///< index of the task that it waits for directly, or kNone
    TextPiece waits_for_type;  ///< name of the type of what it waits for; empty: of nothing
    std::size_t first_frame;   ///< in TaskCapture; of one that runs: in its thread's frames
    std::size_t frame_count;
    std::size_t first_waiter;  ///< in TaskCapture
    std::size_t waiter_count;
    bool is_truncated;  ///< there are more frames than the limit
    bool is_broken;     ///< the innermost frames could not be read
};

/// Reads the tasks of event loops: their frames, their names and who waits for whom. Memory is
/// reserved when the first loop is met, and taken as it is needed. What is read is as consistent as
/// the caller proves it to be. One thread at a time.
class TaskCapture {
  public:
    static constexpr std::size_t kMaxTasks = cpython::Asyncio::kMaxTasks;
    static constexpr std::size_t kMaxWaiters = 4 * kMaxTasks;

    /// Forgets all tasks.
    void clear();
    struct Mark {
        std::size_t tasks, frames, waiters, text_bytes;
    };
    /// To go back to, when what was read since is to be read again.
    [[nodiscard]] Mark mark() const { return used_; }
    void go_back(const Mark& mark) { used_ = mark; }

    /// Where a thread is.
    struct Place {
        Address interpreter;
        Address modules;  ///< sys.modules
        Address state;    ///< PyThreadState
        /// Where its frames stand, newest first.
        std::span<const Address> frame_places;
    };
    struct Outcome {
        std::size_t first_task = 0;
        std::size_t task_count = 0;
        bool has_loop = false;
        bool is_cut = false;  ///< tasks or links are missing
    };
    /// Whether the thread runs an event loop: a few reads.
    bool has_loop(MemoryReader& reader, const cpython::Layout& layout, Address state);
    /// Reads the tasks of the loop that a thread runs. `max_frames`: of one task.
    Outcome read(MemoryReader& reader, const cpython::Layout& layout, const Place& place,
                 std::size_t max_frames);

    [[nodiscard]] const CapturedTask& task(std::size_t index) const { return tasks_[index]; }
    /// Frames of a task that does not run, newest first.
    [[nodiscard]] std::span<const cpython::RawFrame> frames(const CapturedTask& task) const {
        return {frames_.data() + task.first_frame, task.frame_count};
    }
    /// The tasks that wait for it, by index.
    [[nodiscard]] std::span<const std::uint32_t> waiters(const CapturedTask& task) const {
        return {waiters_.data() + task.first_waiter, task.waiter_count};
    }
    [[nodiscard]] std::string_view text(const TextPiece& piece) const {
        return {texts_.data() + piece.from, piece.size_bytes};
    }

  private:
    static constexpr std::size_t kMaxFrames = std::size_t{1} << 17;
    static constexpr std::size_t kMaxTextBytes = std::size_t{2} << 20;
    static constexpr std::size_t kMaxPages = 4096;

    Status reserve();
    bool add(cpython::ObjectReader& objects, Address loop, Address task);
    void read_frames(cpython::ObjectReader& objects, std::span<const Address> places,
                     std::size_t max_frames, CapturedTask& task, Address coro);
    TextPiece keep_name(cpython::ObjectReader& objects, Address name);
    TextPiece keep_type_name(cpython::ObjectReader& objects, Address object);
    TextPiece keep(std::string_view text);
    void part_running(std::size_t first);
    bool read_waiters(cpython::ObjectReader& objects, std::size_t first, std::size_t index);

    bool is_reserved_ = false;
    cpython::Asyncio asyncio_;
    PageCache pages_;
    AddressMap index_;  // of the thread that is being read
    ReservedArray<CapturedTask> tasks_;
    ReservedArray<cpython::AsyncioTask> facts_;  // likewise
    ReservedArray<cpython::RawFrame> frames_;
    ReservedArray<std::uint32_t> waiters_;
    ReservedArray<char> texts_;
    Mark used_{};
};

}  // namespace echion::capture
