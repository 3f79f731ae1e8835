#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "model/profile_events.h"
#include "model/stack_sink.h"

namespace echion::model {

enum class Metric : std::uint8_t {
    kWallTime,  ///< Time between ticks, measured.
    kCpuTime,   ///< CPU time as the agent reports it.
};

/// The line of the instruction at `offset` in `code`; 0 when the table has none.
using LineResolver = std::uint32_t (*)(const CodeView& code, std::int32_t offset);

/// Turns the events of one process into samples: keeps every thread's current stack and adds up its
/// metric until the stack changes, so that one stack seen a thousand times in a row is one sample.
/// An event costs in proportion to what has changed, a tick nothing per thread.
///
/// Times: a thread's stack counts from the tick in front of the one that reported it to the tick in
/// front of the one that reports the next. Metrics are handed on in whole µs; what is left of a
/// thread's metric goes with its next sample, so that the sums are exact.
///
/// Its input has been checked by the decoder. Memory is bounded by what the decoder lets through,
/// and can be asked for; so is the time that one event takes.
class ProfileBuilder final : public ProfileEvents {
  public:
    ProfileBuilder(StackSink& sink, Metric metric, LineResolver resolve_line);
    ~ProfileBuilder() override;

    void start(std::uint64_t now_ns, PythonVersion version) override;
    void tick(std::uint64_t ns) override;
    void lost(std::uint64_t ticks, std::uint64_t ns) override;
    void code(std::uint32_t code_id, const CodeView& code) override;
    void thread(std::uint32_t thread_id, std::int64_t interpreter_id,
                std::uint32_t native_thread_id, std::string_view name) override;
    void thread_end(std::uint32_t thread_id) override;
    void stack(std::uint32_t thread_id, StackMarks marks, std::uint32_t kept,
               std::span<const FrameLocation> frames) override;
    void cpu(std::uint32_t thread_id, std::uint64_t ns) override;
    void missed(std::uint32_t thread_id, std::uint64_t ns) override;
    void share(std::uint32_t thread_id, std::uint32_t parts) override;

    /// After the last batch, wall time: the process lived on for so long, and nobody looked any
    /// more. No stack is given more than `longest_gap_ns` of it.
    void live_on(std::uint64_t ns, std::uint64_t longest_gap_ns);
    /// The same of one thread, before: it ended then.
    void end_after(std::uint32_t thread_id, std::uint64_t ns, std::uint64_t longest_gap_ns);
    /// Hands on what has been added up, of each thread that has a tenth of what its stack has
    /// earned since it last changed, or more. So what is not handed on yet is bounded if this is
    /// called every now and then, and a stack that stands still for a day makes some hundred
    /// samples. Between two batches.
    void checkpoint();

    /// Ends all threads, after the last batch. What comes later is ignored.
    void finish();

    /// From the stream's start to its last tick, or to the end of live_on().
    [[nodiscard]] std::uint64_t duration_ns() const { return now_ns_; }
    /// When that was: CLOCK_MONOTONIC, as the target claims.
    [[nodiscard]] std::uint64_t now_ns() const { return start_ns_ + now_ns_; }
    [[nodiscard]] PythonVersion python_version() const { return version_; }
    [[nodiscard]] std::uint64_t samples() const { return samples_; }
    [[nodiscard]] std::uint64_t lost_ns() const { return lost_ns_; }
    /// Frames given the first line of their function, as the search for the true one would have
    /// taken too long (kMaxSearchedBytes).
    [[nodiscard]] std::uint64_t lines_skipped() const { return lines_skipped_; }
    /// What it holds for this process, about.
    [[nodiscard]] std::size_t memory_bytes() const;
    /// Of line tables, that one stack may have searched.
    static constexpr std::size_t kMaxSearchedBytes = std::size_t{64} << 20;
    /// What of the threads' metrics belongs to no stack.
    [[nodiscard]] std::uint64_t missed_us() const { return missed_us_; }
    /// The sum of all samples' metrics, and of what was missed.
    [[nodiscard]] std::uint64_t value_us() const { return value_us_; }

  private:
    struct Code;
    struct Thread {
        bool alive = false;
        bool has_name = false;
        bool is_stale = false;        // its stack has not followed a loss yet
        bool is_given_again = false;  // but its definition has
        bool has_had_stack = false;
        StackMarks marks;
        std::vector<std::uint64_t> frames;  // ids, root first
        std::uint32_t parts = 1;            // wall: one in so many counts; 0: none
        std::uint32_t rest_ns = 0;          // of that division
        std::uint64_t since_ns = 0;         // wall: counts from here
        std::uint64_t banked_ns = 0;        // and what was counted before
        std::uint64_t pending_cpu_ns = 0;   // of this tick
        std::uint64_t missed_ns = 0;        // not handed on yet
        std::uint64_t handed_us = 0;        // of this stack
    };

    void end_tick();
    static std::uint64_t take_share(Thread& thread, std::uint64_t ns);
    static void count_wall(Thread& thread, std::uint64_t until_ns);
    void emit(std::uint32_t thread_id, Thread& thread);
    void add_missed(std::uint32_t thread_id, Thread& thread, std::uint64_t ns);
    void end_thread(std::uint32_t thread_id, Thread& thread);
    void drop_stack(std::uint32_t thread_id, Thread& thread);
    void settle_cpu(Thread& thread);
    void settle_all_cpu();
    std::uint32_t find_line(FrameLocation location);
    std::uint64_t find_frame_id(FrameLocation location);

    StackSink& sink_;
    Metric metric_;
    LineResolver resolve_line_;
    PythonVersion version_;

    std::uint64_t start_ns_ = 0;     // CLOCK_MONOTONIC
    std::uint64_t now_ns_ = 0;       // of the current tick, from the start
    std::uint64_t previous_ns_ = 0;  // of the tick in front of it
    std::uint64_t lost_ns_ = 0;
    std::uint64_t value_us_ = 0;
    std::uint64_t missed_us_ = 0;
    std::uint64_t samples_ = 0;
    std::uint64_t lines_skipped_ = 0;
    std::size_t searched_bytes_ = 0;  // for the current stack
    std::size_t codes_bytes_ = 0;
    std::size_t frames_bytes_ = 0;  // of all threads
    std::uint32_t next_serial_ = 0;
    bool has_stale_ = false;
    bool finished_ = false;

    std::vector<Thread> threads_;
    std::vector<std::unique_ptr<Code>> codes_;
    std::vector<std::uint32_t> pending_cpu_;  // threads that have some
    std::vector<Frame> changed_;              // scratch of stack()
    /// (serial of the code, offset) → line.
    std::unordered_map<std::uint64_t, std::uint32_t> lines_;
};

}  // namespace echion::model
