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

namespace echion::cli {

/// A frame, by its number in the model.
using FrameId = std::uint32_t;

/// Owned words for a frame.
struct FollowFrame {
    std::string function;
    std::string file;
    std::int32_t line = 0;

    [[nodiscard]] report::SourceFrame words() const { return {function, file, line}; }
};

/// Time that one thread spent in one stack.
struct FollowStack {
    std::vector<FrameId> frames;  ///< the most recent call last
    std::int64_t time_ns = 0;
    std::uint64_t samples = 0;
    bool is_whole = true;  ///< neither cut, nor broken, nor torn
};

/// What has been seen of one thread.
struct FollowThread {
    report::CapturedThread captured;  ///< as last seen
    std::string name;
    std::vector<FollowStack> stacks;
    std::size_t current = 0;          ///< index of the stack that it was last seen in
    std::int64_t seen_ns = 0;         ///< for how long it has been followed
    std::int64_t cpu_ns = 0;          ///< on CPUs, of that
    std::int64_t recent_seen_ns = 0;  ///< the same since begin_recent()
    std::int64_t recent_cpu_ns = 0;
    std::optional<ThreadRun> run;  ///< when its stack was last read
    bool was_running = true;       ///< on a CPU then, so that `run` proves nothing
    bool is_present = false;       ///< in the last sample
    bool has_left_out = false;     ///< stacks beyond the bound were counted together
};

/// Where the threads of a process spent their time, gathered sample by sample. All times are
/// measured. Bounded: what goes beyond the limits is counted together, as a stack without frames.
class FollowModel {
  public:
    static constexpr std::size_t kMaxThreads = 1U << 16;
    static constexpr std::size_t kMaxFrames = 1U << 18;
    static constexpr std::size_t kMaxStacksPerThread = 1U << 14;

    /// `cpu`: stacks are given the time on a CPU instead of that of the clock.
    explicit FollowModel(bool cpu) : cpu_(cpu) {}

    /// Begins a sample, `elapsed_ns` after the one before it (0: the first).
    void begin_sample(std::int64_t elapsed_ns);
    /// The thread, made when it is new; null when there are too many.
    FollowThread* find(const report::CapturedThread& captured);
    /// The number of a frame; nothing when there are too many.
    std::optional<FrameId> number(const report::SourceFrame& frame);
    /// Notes that a thread is in a stack, and gives that the time since the sample before.
    /// `run`: its run time now, if it is known. `frames`: nothing for the stack that it was in.
    void add(FollowThread& thread, const report::CapturedThread& captured,
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

    bool cpu_;
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

}  // namespace echion::cli
