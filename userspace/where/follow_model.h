#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "platform/thread_stat.h"
#include "report/process_report.h"

namespace echion::where {

/// A frame, by its number in the model.
using FrameId = std::uint32_t;

/// Owned words for a frame.
struct FollowFrame {
    std::string function;
    std::string file;
    std::int32_t line = 0;

    [[nodiscard]] capture::SourceFrame words() const { return {function, file, line}; }
};

/// A stretch of a thread's time, and its parts.
struct SpentTime {
    std::int64_t seen_ns = 0;      ///< all of it
    std::int64_t on_cpu_ns = 0;    ///< on a CPU
    std::int64_t runnable_ns = 0;  ///< ready to run, without a CPU

    [[nodiscard]] std::int64_t waiting_ns() const { return seen_ns - on_cpu_ns - runnable_ns; }
};

/// Time that one thread spent in one stack.
struct FollowStack {
    std::vector<FrameId> frames;  ///< the most recent call last
    std::int64_t time_ns = 0;     ///< what it is ranked by: all of it, or that on a CPU
    SpentTime spent;
    std::uint64_t samples = 0;
    bool is_whole = true;  ///< neither cut, nor broken, nor torn
};

/// A stretch of a thread's time that no count of the scheduler has explained so far: the thread
/// waited then, or what it did will be counted later.
struct UnexplainedTime {
    std::size_t stack;  ///< index of the stack that it was spent in
    std::int64_t ns;
};

/// What has been seen of one thread.
struct FollowThread {
    capture::CapturedThread captured;  ///< as last seen
    std::string name;
    std::vector<FollowStack> stacks;
    std::size_t current = 0;                   ///< index of the stack that it was last seen in
    SpentTime spent;                           ///< while it was followed
    SpentTime recent;                          ///< since begin_recent()
    std::vector<UnexplainedTime> unexplained;  ///< the newest last; bounded
    /// How long it has been 'R', in one stack and with the same counts; what of that has been taken
    /// for a wait for a CPU, which the kernel will count when it ends.
    std::int64_t still_ns = 0;
    std::int64_t ahead_ns = 0;
    std::int64_t cpu_ticks = 0;    ///< ThreadStat::cpu_ticks when last read
    std::optional<ThreadRun> run;  ///< when last read; nothing if the kernel does not count
    bool was_running = true;       ///< on a CPU then, so that `run` proves nothing
    bool is_present = false;       ///< in the last sample
    bool had_gil_last = false;     ///< as CapturedThread's, when last listed
    bool is_lent = false;          ///< as CapturedThread's, once: its counts prove nothing

    /// Whether it is known how much of the time that it was not on a CPU it was runnable.
    [[nodiscard]] bool has_counts() const { return run.has_value(); }
};

/// Where the threads of a process spent their time, gathered sample by sample. All times are
/// measured. Bounded: what goes beyond the limits is counted together, as a stack without frames.
///
/// A thread's time is on a CPU, runnable or waiting. The first two are what the scheduler's counts
/// (ThreadRun) have grown by; the rest is waiting. The counts are late: a run is counted at the
/// next tick of the scheduler's clock, a wait for a CPU when it ends. So what a sample finds
/// counted goes to that sample's time, and where it is more, to the time before it that is
/// unexplained, latest first. A wait that goes on is seen by the counts: those of a thread on a CPU
/// change at every tick.
class FollowModel {
  public:
    static constexpr std::size_t kMaxThreads = 1U << 16;
    static constexpr std::size_t kMaxFrames = 1U << 18;
    static constexpr std::size_t kMaxStacksPerThread = 1U << 14;
    static constexpr std::size_t kMaxUnexplained = 256;  // of a thread

    /// `cpu`: stacks are given the time on a CPU instead of that of the clock. `tick_ns`: the
    /// period of the scheduler's clock.
    explicit FollowModel(bool cpu, std::int64_t tick_ns = 10'000'000)
        : cpu_(cpu), tick_ns_(tick_ns) {}

    /// Begins a sample, `elapsed_ns` after the one before it (0: the first).
    void begin_sample(std::int64_t elapsed_ns);
    /// The thread, made when it is new; null when there are too many.
    FollowThread* find(const capture::CapturedThread& captured);
    /// The number of a frame; nothing when there are too many.
    std::optional<FrameId> number(const capture::SourceFrame& frame);
    /// Notes that a thread is in a stack, and gives that the time since the sample before.
    /// `run`: its run time now, if it is known. `frames`: nothing for the stack that it was in.
    void add(FollowThread& thread, const capture::CapturedThread& captured,
             const std::optional<ThreadRun>& run, const std::vector<FrameId>* frames);

    /// Starts the recent times, those that a view refreshes with, anew.
    void begin_recent();

    [[nodiscard]] bool counts_cpu() const { return cpu_; }
    [[nodiscard]] std::uint64_t samples() const { return samples_; }
    [[nodiscard]] std::int64_t elapsed_ns() const { return elapsed_ns_; }
    /// In the order in which they were first seen.
    [[nodiscard]] const std::vector<FollowThread>& threads() const { return threads_; }
    [[nodiscard]] const FollowFrame& frame(FrameId id) const { return frames_[id]; }

  private:
    std::size_t find_stack(FollowThread& thread, const std::vector<FrameId>& frames, bool is_whole);
    void account(FollowThread& thread, std::size_t previous,
                 const capture::CapturedThread& captured, const std::optional<ThreadRun>& run);
    void explain_on_cpu(FollowThread& thread, std::int64_t ns);
    void explain_runnable(FollowThread& thread, std::int64_t ns);

    bool cpu_;
    std::int64_t tick_ns_;
    std::vector<FollowThread> threads_;
    std::map<std::pair<std::uintptr_t, std::uint64_t>, std::size_t> thread_index_;
    std::vector<FollowFrame> frames_;
    std::unordered_map<std::string, FrameId> frame_index_;
    // Per thread: hash of a stack → indices of the stacks with it.
    std::vector<std::unordered_multimap<std::uint64_t, std::size_t>> stack_index_;
    std::uint64_t samples_ = 0;
    std::int64_t elapsed_ns_ = 0;
    std::int64_t step_ns_ = 0;
};

}  // namespace echion::where
