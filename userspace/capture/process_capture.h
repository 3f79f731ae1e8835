#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/function_ref.h"
#include "base/mapping.h"
#include "capture/captured_thread.h"
#include "capture/greenlet_capture.h"
#include "capture/native_ids.h"
#include "capture/scheduling_watch.h"
#include "capture/task_capture.h"
#include "cpython/frame_walker.h"
#include "cpython/runtime_view.h"
#include "cpython/stack_round.h"
#include "cpython/thread_list.h"
#include "memory/page_batch.h"
#include "memory/reader.h"
#include "platform/same_cpu.h"

namespace echion::capture {

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
/// The thread that a state names made it, but any may run with it. So where the last holder of the
/// GIL rests, its own C stack has to show that it is who runs with it (CStack). Where that cannot
/// be looked at, two copies in a row have to be the same.
///
/// The tasks of a thread's event loop and its greenlets are read together with its stack, under the
/// same proof. If that does not come about, as there are too many of them, the stack is proved
/// alone, and the others are marked. Which greenlets there are is found out by list_threads().
///
/// All memory is taken by make(), but for that of tasks and greenlets. One thread at a time.
class ProcessCapture {
  public:
    struct Limits {
        std::size_t max_threads = cpython::kMaxThreadStates;
        std::size_t max_frames = 2048;  ///< of one stack
        bool follow = true;             ///< go to a running thread's CPU
        bool tasks = false;             ///< read the tasks of event loops and greenlets, too
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
    /// Tells of those threads of the last read_stacks(), from the one at `from` up to `end`, whose
    /// state is 'R' whether they were on a CPU or runnable. As SchedulingWatch::settle().
    void settle_scheduling(SameCpu& same_cpu, std::size_t from, std::size_t end) {
        scheduling_.settle(same_cpu, threads(), from, end, limits_.follow);
    }
    /// Whether that cannot be told of threads read since list_threads(), as the kernel does not
    /// count when they run (CONFIG_SCHED_INFO).
    [[nodiscard]] bool lacks_counts() const { return scheduling_.lacks_counts(); }
    /// The frames of a thread read by the last read_stacks(), newest first.
    [[nodiscard]] std::span<const cpython::RawFrame> frames(const CapturedThread& thread) const {
        return {frames_.data() + thread.first_frame, thread.frame_count};
    }

    /// The tasks and greenlets of threads read by the last read_stacks().
    [[nodiscard]] const TaskStore& tasks() const { return tasks_; }
    /// What the search for greenlets by the last list_threads() came to.
    [[nodiscard]] const GreenletCapture::Found& greenlets() const { return greenlets_.found(); }

    [[nodiscard]] const cpython::RuntimeView& view() const { return view_; }

  private:
    static constexpr unsigned kAttempts = 10;
    static constexpr int kListAttempts = 4;
    static constexpr std::size_t kArenaBytes = std::size_t{12} << 20;
    static constexpr std::size_t kFrames = std::size_t{1} << 17;
    // For a stack together with its tasks.
    static constexpr std::int64_t kTasksNs = 200'000'000;

    // What one copy of one thread's stack came to.
    struct Copy {
        cpython::GilState gil;     // after it
        bool gil_stayed = false;   // with the same thread, all the time
        bool head_stayed = false;  // the newest frame
        bool is_cut = false;       // perhaps: frames below the root are missing
        bool is_between = false;   // perhaps: between two frames, see FrameWalker
        cpython::Walk walk;
        std::uint64_t hash = 0;  // of its frames
        Address newest;          // frame
        Address on_c_stack;      // of whoever runs with the state; null: not known
        TaskCapture::Outcome tasks;
        GreenletCapture::Outcome greenlets;
    };
    enum class Runner { kUnknown, kMaker, kAnother };
    Status list_interpreter(MemoryReader& reader, const cpython::InterpreterHead& interpreter);
    void find_native_ids(MemoryReader& reader);
    void find_missing_native_ids(MemoryReader& reader);
    void note_last_holders(MemoryReader& reader);
    void read_thread(MemoryReader& reader, SameCpu& same_cpu, CapturedThread& thread);
    void read_stack(MemoryReader& reader, SameCpu& same_cpu, CapturedThread& thread,
                    bool with_tasks);
    bool copy_stack(MemoryReader& reader, const CapturedThread& thread, unsigned attempt,
                    bool with_tasks, Copy* copy);
    void copy_tasks(MemoryReader& reader, const CapturedThread& thread, Copy* copy);
    void find_greenlets(MemoryReader& reader);
    // Who runs with the state of a thread that rests: its maker, which it names, or another one.
    [[nodiscard]] Runner find_runner(MemoryReader& reader, const CapturedThread& thread,
                                     const Copy& copy) const;
    // Likewise, of one that cannot run Python meanwhile.
    [[nodiscard]] bool is_seen_lent(MemoryReader& reader, const CapturedThread& thread,
                                    const Copy& copy) const;
    [[nodiscard]] bool may_be_lent(const CapturedThread& thread) const;
    void describe_state(std::size_t index, const cpython::GilState& gil);
    [[nodiscard]] bool waits_for_gil(const CapturedThread& thread) const;
    [[nodiscard]] bool has_not_begun(const CapturedThread& thread) const;

    cpython::RuntimeView view_;
    Limits limits_;
    pid_t pid_ = 0;
    NativeIds ids_;
    SchedulingWatch scheduling_;
    PageBatch batch_;
    FixedArray<PageSet> pages_;  // one: those of the thread that is being read
    FixedArray<cpython::RawFrame> frames_;
    FixedArray<Address> frame_places_;  // of the thread that is being read, where tasks are wanted
    TaskCapture tasks_;                 // and the store of greenlets
    GreenletCapture greenlets_;
    Address cframe_;  // likewise, as last read
    FixedArray<CapturedThread> threads_;
    FixedArray<cpython::ListedState> listed_;
    FixedArray<cpython::InterpreterHead> interpreters_;
    FixedArray<std::uintptr_t> thread_ids_;
    std::size_t frames_used_ = 0;
    std::size_t thread_count_ = 0;
    std::size_t interpreter_count_ = 0;
    NativeIds::Place native_id_place_;
    std::uintptr_t main_thread_ = 0;
    bool is_cut_ = false;
    bool has_unlisted_ = false;  // the process has threads that no state names
};

}  // namespace echion::capture
