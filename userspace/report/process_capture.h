#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/function_ref.h"
#include "base/mapping.h"
#include "cpython/frame_walker.h"
#include "cpython/runtime_view.h"
#include "memory/page_batch.h"
#include "memory/reader.h"
#include "platform/same_cpu.h"
#include "report/native_ids.h"
#include "report/run_watch.h"

namespace echion::report {

/// What a thread has to do with the GIL of its interpreter, where that can be told.
enum class GilRole : std::uint8_t {
    kUnknown,  ///< It has not got it; whether it wants it is not known.
    kHolds,
    kWaits,  ///< It is blocked in the kernel on the GIL's own condition variable.
};

/// How sure it is that all frames of a stack stood on it at the same time.
enum class Consistency : std::uint8_t {
    kProved,  ///< The thread could not change its stack while it was copied.
    kLikely,  ///< The newest frame was the same before and after, no more is known.
    kTorn,    ///< The thread changed its stack during every attempt: frames may not fit together.
};

/// One thread of one interpreter, as a capture found it.
struct CapturedThread {
    Address state;  ///< PyThreadState
    std::uint64_t state_id = 0;
    std::int64_t interpreter = 0;  ///< id
    Address gil;
    std::uintptr_t thread_id = 0;  ///< pthread_t
    std::uint32_t native_id = 0;   ///< as the process itself sees it; 0 unknown
    pid_t tid = 0;                 ///< the same, as we see it; 0 unknown, or ended
    bool is_main = false;          ///< the thread that started Python
    char kernel_state = '?';       ///< as in ThreadStat; '?' unknown
    std::int64_t cpu_ticks = 0;    ///< likewise; 0 unknown
    Scheduling scheduling = Scheduling::kUnknown;
    GilRole gil_role = GilRole::kUnknown;
    Consistency consistency = Consistency::kProved;
    bool is_truncated = false;  ///< there are more frames than the limit
    bool is_broken = false;     ///< the chain of frames could not be followed to its root
    bool is_gone = false;       ///< it has ended since it was listed, or has not begun yet
    bool is_skipped = false;    ///< its stack was not wanted
    std::size_t first_frame = 0;
    std::size_t frame_count = 0;
};

/// Reads where all threads of a process are: this process or another one, running, stopped or dead-
/// locked. Nothing in it is stopped or changed. Lists first, then stacks:
///
///     list_threads()                            every thread of every interpreter, without stacks
///     for (at = 0; at < threads().size();)
///         next = read_stacks(at)                as many stacks as the pool of frames holds
///         settle_scheduling(at, next)           where it matters: takes some ms
///         … threads()[at … next), frames() …
///         at = next
///
/// Is a stack consistent? Only a thread that holds the GIL can change its own. So the stacks of the
/// others stand still as long as the GIL neither changes hands nor is theirs. Of the holder, and of
/// all when the GIL goes from hand to hand, it is enough that the thread did not run meanwhile: its
/// run time stood still and it is not on a CPU, or is waiting for the one that we are on. A thread
/// that runs elsewhere is followed to its CPU, which it then has to leave to us for some 50 us.
/// What neither proves within some attempts is marked.
///
/// All memory is taken by make(). One thread at a time.
class ProcessCapture {
  public:
    struct Limits {
        std::size_t max_threads = cpython::kMaxThreadStates;
        std::size_t max_frames = 2048;  ///< of one stack
        bool follow = true;             ///< go to a running thread's CPU
    };

    static Result<ProcessCapture> make(const cpython::RuntimeView& view, const Limits& limits);

    /// Lists the threads. `pid`: the process for the kernel's part (0: this one). kNotReady while
    /// Python is starting or finished; kTorn when the lists changed at every attempt, or what they
    /// hold makes no sense: the threads found so far are then listed.
    Status list_threads(MemoryReader& reader, pid_t pid);
    [[nodiscard]] std::span<CapturedThread> threads() { return {threads_.data(), thread_count_}; }
    /// The interpreters of the last list_threads().
    [[nodiscard]] std::span<const cpython::InterpreterHead> interpreters() const {
        return {interpreters_.data(), interpreter_count_};
    }
    /// Whether list_threads() had to leave threads out, for lack of room.
    [[nodiscard]] bool is_cut() const { return is_cut_; }

    /// Reads the stacks, kernel states and GIL roles of the threads from the one at `from` on;
    /// returns the index behind the last one read, at least `from` + 1. Frames of earlier calls
    /// end. `same_cpu`: of the calling thread, opened; its affinity may be changed.
    std::size_t read_stacks(MemoryReader& reader, SameCpu& same_cpu, std::size_t from) {
        return read_stacks(reader, same_cpu, from, [](const CapturedThread&) { return true; });
    }
    /// The same for those threads only that `wants` says.
    std::size_t read_stacks(MemoryReader& reader, SameCpu& same_cpu, std::size_t from,
                            FunctionRef<bool(const CapturedThread&)> wants);
    /// Finds out whether those threads of the last read_stacks(), from the one at `from` up to
    /// `end`, whose state is 'R' were on a CPU or runnable (RunWatch). In this process the threads'
    /// CPU clocks tell at once. In another one the scheduler's counts do, within one and a half
    /// ticks of its clock (2 to 15 ms). A thread whose counts have not changed by then is visited
    /// on its CPU, as read_stacks() does: if it did not run there before either, it is runnable.
    void settle_scheduling(SameCpu& same_cpu, std::size_t from, std::size_t end);
    /// Whether that cannot be told of threads read since list_threads(), as the kernel does not
    /// count when they run (CONFIG_SCHED_INFO).
    [[nodiscard]] bool lacks_counts() const { return lacks_counts_; }
    /// The frames of a thread read by the last read_stacks(), newest first.
    [[nodiscard]] std::span<const cpython::RawFrame> frames(const CapturedThread& thread) const {
        return {frames_.data() + thread.first_frame, thread.frame_count};
    }

    [[nodiscard]] const cpython::RuntimeView& view() const { return view_; }

  private:
    static constexpr unsigned kAttempts = 10;
    static constexpr int kListAttempts = 4;
    static constexpr std::size_t kArenaBytes = std::size_t{12} << 20;
    static constexpr std::size_t kFrames = std::size_t{1} << 17;

    // What one copy of one thread's stack came to.
    struct Copy {
        cpython::GilState gil;     // after it
        bool gil_stayed = false;   // with the same thread, all the time
        bool head_stayed = false;  // the newest frame
        cpython::Walk walk;
    };
    // What stands at the start of a stack.
    struct Head {
        cpython::ThreadHead thread;
        cpython::GilState gil;
        Address frame;  // newest
    };

    Status list_interpreter(MemoryReader& reader, const cpython::InterpreterHead& interpreter);
    void find_native_ids(MemoryReader& reader);
    void read_thread(MemoryReader& reader, SameCpu& same_cpu, CapturedThread& thread);
    bool copy_stack(MemoryReader& reader, const CapturedThread& thread, unsigned attempt,
                    Copy* copy);
    bool read_head(MemoryReader& reader, const CapturedThread& thread, Head* head);
    void describe_state(CapturedThread& thread, const cpython::GilState& gil);
    [[nodiscard]] Result<ThreadRun> read_counts(pid_t tid) const;
    void watch(const CapturedThread& thread, const ThreadStat& stat);
    [[nodiscard]] bool is_unsettled(const CapturedThread& thread);
    void look_again(CapturedThread& thread);
    void visit(SameCpu& same_cpu, CapturedThread& thread);
    [[nodiscard]] RunWatch& watch_of(const CapturedThread& thread) {
        return watches_[static_cast<std::size_t>(&thread - threads_.data())];
    }
    [[nodiscard]] bool waits_for_gil(const CapturedThread& thread) const;
    [[nodiscard]] bool has_not_begun(const CapturedThread& thread) const;

    cpython::RuntimeView view_;
    Limits limits_;
    pid_t pid_ = 0;
    NativeIds ids_;
    PageBatch batch_;
    FixedArray<PageSet> pages_;  // one: those of the thread that is being read
    FixedArray<cpython::RawFrame> frames_;
    FixedArray<CapturedThread> threads_;
    FixedArray<RunWatch> watches_;  // of the thread at the same index
    FixedArray<cpython::InterpreterHead> interpreters_;
    FixedArray<std::uintptr_t> thread_ids_;
    std::size_t frames_used_ = 0;
    std::size_t thread_count_ = 0;
    std::size_t interpreter_count_ = 0;
    std::size_t native_id_offset_ = 0;
    std::uintptr_t main_thread_ = 0;
    bool is_cut_ = false;
    bool lacks_counts_ = false;
};

}  // namespace echion::report
