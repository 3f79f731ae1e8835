#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "base/error.h"
#include "base/mapping.h"
#include "cpython/frame_walker.h"
#include "cpython/objects.h"
#include "memory/address.h"

namespace echion::capture {

enum class TaskState : std::uint8_t {
    kSuspended,
    kRunning,     ///< its frames are on the thread's stack
    kNotStarted,  ///< it waits for its first turn
    kFinished,    ///< its coroutine has ended
    kElsewhere,   ///< it is executed, but not on the thread's stack as it was copied
};

enum class TaskKind : std::uint8_t {
    kTask,  ///< of asyncio
    kGreenlet,
    kMainGreenlet,  ///< that with the thread's own stack
    kHub,           ///< that with gevent's event loop
};

/// A piece of text that a TaskStore keeps.
struct TextPiece {
    std::uint32_t from = 0;
    std::uint32_t size_bytes = 0;
};

/// One task of the event loop that a thread runs, or one greenlet of a thread.
struct CapturedTask {
    static constexpr std::uint32_t kNone = ~0U;

    Address task;
    TaskKind kind;
    TaskState state;
    TextPiece name;
    TextPiece type_name;            ///< of a greenlet
    TextPiece function;             ///< of a greenlet that has not started: what it is to call
    std::uint32_t parent;           ///< of a greenlet: index of the one that goes on when it ends
    std::uint32_t waits_for;        ///< index of a task that it waits for directly, or kNone
    std::uint32_t waits_for_count;  ///< of greenlets: how many it waits for
    TextPiece waits_for_type;       ///< name of the type of what it waits for; empty: of nothing
    std::size_t first_frame;        ///< in TaskStore; of one that runs: in its thread's frames
    std::size_t frame_count;
    std::size_t first_waiter;  ///< in TaskStore
    std::size_t waiter_count;
    bool is_truncated;  ///< there are more frames than the limit
    bool is_broken;     ///< the innermost frames could not be read
};

/// What has been captured of tasks and greenlets: they themselves, their frames, texts, and who
/// waits for whom. Memory is reserved by the first use, and taken as it is needed. One thread at a
/// time.
class TaskStore {
  public:
    static constexpr std::size_t kMaxTasks = std::size_t{1} << 14;
    static constexpr std::size_t kMaxWaiters = 4 * kMaxTasks;

    /// kNoSpace when the system refuses the address space.
    Status reserve();
    /// Forgets all tasks.
    void clear() { used_ = {}; }
    struct Mark {
        std::size_t tasks, frames, waiters, text_bytes;
    };
    /// To go back to, when what was read since is to be read again.
    [[nodiscard]] Mark mark() const { return used_; }
    void go_back(const Mark& mark) { used_ = mark; }

    [[nodiscard]] std::size_t count() const { return used_.tasks; }
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

    // For who captures.
    [[nodiscard]] CapturedTask& task(std::size_t index) { return tasks_[index]; }
    /// A new task at the end, or null when there is no room.
    CapturedTask* add(Address task, TaskKind kind);
    /// Room for at most so many frames of a task, behind those that are there; keep_frames() takes
    /// the first of them. Empty when there is no room.
    std::span<cpython::RawFrame> make_room(std::size_t max_frames);
    void keep_frames(CapturedTask& task, std::size_t count);
    /// Before the first of the task's waiters. Those of one task are added in one go.
    void begin_waiters(CapturedTask& task);
    /// Adds one that it has not got. False when there is no room.
    bool add_waiter(CapturedTask& task, std::uint32_t waiter);
    /// Empty when there is no room.
    TextPiece keep(std::string_view text);
    /// The name of an object's type, without what is in front of the last dot; empty: of None, or
    /// it cannot be read.
    TextPiece keep_type_name(cpython::ObjectReader& objects, Address object);

  private:
    static constexpr std::size_t kMaxFrames = std::size_t{1} << 17;
    static constexpr std::size_t kMaxTextBytes = std::size_t{2} << 20;

    bool is_reserved_ = false;
    ReservedArray<CapturedTask> tasks_;
    ReservedArray<cpython::RawFrame> frames_;
    ReservedArray<std::uint32_t> waiters_;
    ReservedArray<char> texts_;
    Mark used_{};
};

}  // namespace echion::capture
