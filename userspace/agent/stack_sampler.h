#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <span>

#include "agent/code_registry.h"
#include "agent/cpu_watch.h"
#include "agent/guest.h"
#include "agent/thread_table.h"
#include "agent/unlisted_threads.h"
#include "base/clock.h"
#include "cpython/frame_walker.h"
#include "cpython/runtime_view.h"
#include "cpython/thread_names.h"
#include "memory/page_batch.h"
#include "platform/process_reader.h"
#include "platform/same_cpu.h"
#include "stream/encoder.h"
#include "stream/ring.h"

namespace echion::agent {

/// Below this interval the sampler does not follow the GIL holder: it takes some 10 us a tick, and
/// the thread that it follows would get none of what remains.
constexpr std::uint64_t kLeastFollowIntervalNs = 25'000;

/// What the command-line program asked for.
struct SamplerOptions {
    std::uint64_t interval_ns = 1'000'000;
    std::size_t max_frames = 2048;
    bool cpu_mode = false;  ///< also report the CPU time of each thread
    bool follow = true;     ///< go to the GIL holder's CPU to read its stack
};

/// The last look that did not find Python started.
struct PythonStart {
    std::int64_t after_ns = 0;     ///< when it was: CLOCK_MONOTONIC
    std::int64_t main_cpu_ns = 0;  ///< CPU time of the process's first thread by then
};

/// Looks at all Python threads of this process once a tick and writes what has changed.
///
/// Whose stack can have changed? Only that of a thread that held the GIL since the last tick. The
/// GIL says who holds it or held it last, and counts how often it went to another thread, so:
///     no switch       the last holder's
///     one switch      the last holder's, and the one's before it
///     more            any
/// All others keep the stack they had, and cost nothing.
///
/// With BPF the kernel says which threads have run at all, and only those are considered; of the
/// threads that it interrupts it has copied the stack while they stood still.
///
/// Is a copy consistent? Nobody changes the last holder's stack but that thread itself, so it is
/// enough that it did not run while it was copied (SameCpu). For the others it is enough that the
/// GIL did not change hands meanwhile. What cannot be proved is read again, a few times, then
/// written as an invalid stack and counted.
///
/// A thread that calls code of another interpreter has a thread state in each. It runs with one of
/// them: that one has the thread's time, and is in the stream. The others are read, but not written
/// until the thread is back in their interpreter.
///
/// One tick in the steady state is one system call. All memory is reserved by start(). Sampler
/// thread only.
class StackSampler {
  public:
    StackSampler() = default;

    /// Reserves all memory and starts the stream. `view`'s layout must outlive this object. To be
    /// called by the thread that will call tick(), as ticks are proved by where that thread runs.
    /// `watch`: closed where there is no BPF.
    /// The profile tells of the program from `python_start` on; nobody has looked since.
    Status start(const cpython::RuntimeView& view, const SamplerOptions& options, CpuWatch watch,
                 const GuestFacts& facts, stream::RingProducer& ring,
                 const PythonStart& python_start);
    /// Ticks come from the kernel, `interval_ns` apart: in CPU mode each for a thread that has used
    /// so much CPU time, and with BPF only those threads are looked at.
    void use_kernel_ticks(std::int64_t interval_ns);
    /// Takes one sample of every thread at `now_ns`.
    void tick(std::int64_t now_ns);
    /// Sleeps for others' sake (CpuShare).
    void rest(std::int64_t duration_ns);
    /// Takes the last sample, and ends what start() began.
    void stop(std::int64_t now_ns);

    [[nodiscard]] const CpuWatch& watch() const { return watch_; }
    [[nodiscard]] echion_snapshot_layout watch_layout() const {
        return watch_.snapshot_layout(*view_.layout);
    }

    /// Whether it still may read what it has to: a program can lock itself up (seccomp) with all
    /// its threads, and what is seen of it from then on is only how it was. One system call at
    /// most.
    [[nodiscard]] Status check_access() const;

    /// Whether there is a Python: none before it starts and after Py_Finalize().
    [[nodiscard]] bool has_python() const { return interpreter_count_ > 0; }
    [[nodiscard]] std::size_t thread_count() const { return threads_.size(); }

  private:
    Status reserve();
    // A GIL and the interpreters that share it (3.8-3.11: all of them).
    struct Gil {
        Address address;
        cpython::GilState sampled;  // when the stacks were last read
        bool is_known;              // `sampled` holds something
        Address unknown_holder;     // a last holder that no list had: a thread that has ended
        // CLOCK_MONOTONIC up to which `sampled` is known to have held: in this tick, and when the
        // tick before ended.
        std::int64_t held_ns;
        std::int64_t held_before_ns;
    };
    struct Interpreter {
        cpython::InterpreterHead head;
        std::uint32_t gil;
        Address threads_head;  // as last read
        bool list_changed;     // walk its list of threads
        PageBatch::Handle threads_head_copy;
        PageBatch::Handle collecting_copy;
        bool is_collecting;
    };
    // Copies of one stretch of reading, and what proves them.
    struct Round {
        std::span<TrackedThread*> group;
        TrackedThread* holder;  // the last holder of the GIL, when it is in the group
        PageBatch::Handle gil_before;
        PageBatch::Handle gil_after;
        PageBatch::Handle current_before;
        PageBatch::Handle current_after;
        bool is_followed;               // the holder's CPU proves its stack
        std::uintptr_t holder_runs_on;  // when that was requested
        PageBatch::Handle holder_cpu;
        PageBatch::Handle holder_state_after;
        PageBatch::Handle holder_cframe_after;
    };
    // What a round's copies say of a thread. Taken out before the first walk, which may fetch so
    // much that the batch starts over.
    struct CopiedHead {
        cpython::ThreadHead head;
        Address frame;  // newest, if `has_frame`
        bool is_read;
        bool has_frame;  // else it has to be read through `head.cframe`
    };
    struct WalkedStack {
        std::size_t first;  // in raw_
        cpython::Walk walk;
        Address head;      // newest frame
        bool is_readable;  // the thread state was still this thread's
    };
    enum class Verdict { kProved, kUnproved, kRetry };
    // A stack whose code objects have been looked up: TrackedThread's codes and refs are its own.
    struct AssignedStack {
        std::size_t frame_count;
        std::size_t kept;  // frames from the root that are as they were
    };

    // Copies of one round: the stacks of a group of threads. What does not fit is fetched in
    // pieces. Pages that are never touched cost nothing.
    static constexpr std::size_t kArenaBytes = std::size_t{sizeof(void*) == 8 ? 64 : 16} << 20;
    static constexpr std::size_t kGroup = 64;
    static constexpr int kAttempts = 4;
    // Of names, after a thread without one has appeared. Their number counts, not the time: a
    // sampler that gets no CPU makes none in it.
    static constexpr int kNamelessScans = 20;
    static constexpr std::int64_t kListPeriodNs = 250'000'000;

    std::size_t find_native_id_offset();
    std::uint32_t find_native_id(const cpython::ThreadHead& head);
    void refresh_interpreters(std::int64_t now_ns);
    void forget_python();
    void replace_interpreters(std::span<const cpython::InterpreterHead> heads);
    void watch_version_counter();
    void look_at_lists();
    void walk_thread_list(std::uint32_t interpreter);
    bool read_thread_list(Address first, Address interpreter, std::size_t* count);
    bool is_intact(const TrackedThread& thread);
    TrackedThread* meet_thread(std::uint32_t interpreter, Address state,
                               const cpython::ThreadHead& head);
    bool has_begun(const TrackedThread& thread);
    TrackedThread* find_owner(const TrackedThread& thread);
    void begin_apart(TrackedThread& thread);
    void describe_thread(TrackedThread& thread);
    void complete(TrackedThread& thread, const cpython::ThreadHead& head);
    void end_thread(TrackedThread& thread);
    void forget_thread(TrackedThread& thread);
    void succeed_former_state(TrackedThread& thread);
    TrackedThread* find_other_state(const TrackedThread& thread, bool is_second);
    void set_second(TrackedThread& thread, bool is_second);
    void retract(TrackedThread& thread);
    void suspend(TrackedThread& thread);
    void settle_end(TrackedThread& thread);
    void make_current(TrackedThread& thread);
    void start_account(TrackedThread& thread);
    void tell_unstarted_cpu();
    void forget_place(TrackedThread& thread);
    void set_apart(TrackedThread& thread);
    void take_over(TrackedThread& from, TrackedThread& to);
    void place(TrackedThread& thread, std::uintptr_t runs_on);
    void displace(TrackedThread& thread);
    void place_by_stack(TrackedThread& thread);
    [[nodiscard]] bool can_change_threads(const TrackedThread& thread) const;
    bool place_running(TrackedThread& running, const cpython::GilState& now);
    void note_running(const cpython::GilState& now);
    void note_frames(TrackedThread& thread, std::size_t frame_count);
    [[nodiscard]] bool is_alone();
    std::string_view find_name(const TrackedThread& thread) const;
    void scan_names();
    void refresh_names();

    void begin(std::int64_t at_ns);
    void continue_at(std::int64_t at_ns);
    void finish();
    void look_at_cpus();
    void note_unlisted(std::uint32_t slot);
    void end_slot(TrackedThread& thread, const engine::CpuState& state);
    void keep_snapshots();
    bool is_first_of_stack(const echion_frame& root);
    bool convert(const engine::SnapshotView& snapshot, std::span<cpython::RawFrame> out,
                 std::size_t* count);
    void use_snapshots();
    void tick_for_events(std::int64_t now_ns);
    void read_without_snapshot();
    [[nodiscard]] std::uint8_t gc_flag(const TrackedThread& thread);

    enum class Marking { kByGil, kMarkedOnly };
    void sample_gil(std::uint32_t gil_index, Marking marking);
    bool walk_changed_lists(std::uint32_t gil_index);
    void mark(TrackedThread& thread);
    void mark_all(std::uint32_t gil_index);
    // By several interpreters.
    [[nodiscard]] bool is_shared(std::uint32_t gil_index) const;
    void note_holder(const Gil& gil, const cpython::GilState& now);
    void mark_changed(std::uint32_t gil_index, const cpython::GilState& now);
    std::span<TrackedThread*> select_changed(std::uint32_t gil_index);
    void forget_processed();
    std::size_t read_group(std::uint32_t gil_index, std::span<TrackedThread*> group,
                           Address* last_holder, bool is_last);
    void read_interpreter_copies();
    bool is_between_frames(TrackedThread& thread, const WalkedStack& stack, bool holds_gil,
                           bool* can_pass);
    void pause();
    bool still_stands(Round& round, std::uint32_t gil_index, const cpython::GilState& before,
                      const TrackedThread& thread, const WalkedStack& stack);
    void accept(TrackedThread& thread, const WalkedStack& stack, const AssignedStack& assigned,
                Verdict verdict, bool holds_gil);
    bool request(Round& round, std::uint32_t gil_index);
    [[nodiscard]] CopiedHead take_head(const TrackedThread& thread) const;
    bool walk_one(TrackedThread& thread, const CopiedHead& copied, WalkedStack& out,
                  std::size_t* raw_used);
    Verdict prove_holder(Round& round, const WalkedStack& stack, bool was_cold);
    Verdict compare_heads(const Round& round, const WalkedStack& stack, bool was_cold);
    bool read_gil(Address gil, cpython::GilState* out);

    void define_unknown_code();
    bool is_named_by_right(const TrackedThread& thread);
    bool note_name(TrackedThread& thread);
    void announce(TrackedThread& thread);
    AssignedStack assign_stack(TrackedThread& thread, std::span<cpython::RawFrame> raw);
    void write_stack(TrackedThread& thread, const AssignedStack& stack, std::uint8_t flags,
                     bool may_have_run, std::int64_t at_ns);
    [[nodiscard]] std::int64_t known_until_ns(const TrackedThread& thread) const;
    [[nodiscard]] bool has_waited_since(const TrackedThread& thread, std::int64_t since_ns,
                                        std::int64_t at_ns) const;
    bool write_snapshot(TrackedThread& thread, std::span<cpython::RawFrame> raw,
                        std::int64_t at_ns);
    bool assign_refs(TrackedThread& thread, std::span<const cpython::RawFrame> raw,
                     std::size_t* kept);
    std::int64_t read_thread_cpu_ns(const TrackedThread& thread);
    void write_cpu(TrackedThread& thread);
    bool lives_on(const TrackedThread& thread);
    void write_cpu_after_leaving(TrackedThread& thread);
    void write_cpu_up_to(TrackedThread& thread, std::int64_t cpu_ns);
    void write_all_cpu(bool is_last);
    void settle_unclaimed(std::int64_t living_ns, std::size_t left_count, bool is_last);
    void write_unseen_cpu(std::int64_t cpu_ns);
    void skip_told_as_unseen(TrackedThread& thread, std::int64_t cpu_ns);
    [[nodiscard]] std::int64_t longest_gap_ns() const;
    void split_batch();
    void commit();
    void publish_counts();

    cpython::RuntimeView view_;
    SamplerOptions options_;
    ProcessReader reader_;
    Address static_from_;  // static data of the interpreter: see CodeRegistry
    std::size_t static_bytes_ = 0;
    SameCpu same_cpu_;
    PageBatch batch_;
    ThreadTable threads_;
    CodeRegistry codes_;
    CpuWatch watch_;
    cpython::ThreadNames names_;
    FixedArray<cpython::RawFrame> raw_;
    FixedArray<cpython::RawFrame> snapshot_raw_;  // stacks that have come in this tick
    std::size_t snapshot_raw_used_ = 0;
    std::array<Address, 64> stack_starts_;  // first frames of data stacks, by their chunks
    UnlistedThreads unlisted_;
    FixedArray<TrackedThread*> ran_;  // threads that have run since the last tick
    std::size_t ran_count_ = 0;
    struct ListedState {
        Address state;
        cpython::ThreadHead head;
    };
    FixedArray<ListedState> listed_;       // one interpreter's, newest first
    FixedArray<TrackedThread*> changed_;   // threads whose may_have_changed is set
    FixedArray<TrackedThread*> selected_;  // those of one GIL
    std::size_t changed_count_ = 0;
    std::size_t second_count_ = 0;  // threads whose is_second is set
    FixedArray<Interpreter> interpreters_;
    FixedArray<Gil> gils_;
    std::uint32_t interpreter_count_ = 0;
    std::uint32_t gil_count_ = 0;
    Address interpreters_head_;
    const std::atomic<std::uint32_t>* python_starts_ = nullptr;
    std::uint32_t known_starts_ = 0;
    std::uint32_t visit_ = 0;
    std::uintptr_t main_thread_id_ = 0;
    std::size_t native_id_offset_ = 0;

    stream::RingProducer* ring_ = nullptr;
    std::optional<stream::Encoder> encoder_;
    std::int64_t now_ns_ = 0;
    std::int64_t previous_ns_ = 0;
    std::int64_t part_since_ns_ = 0;  // what is written now is given the time from here on
    std::int64_t last_look_ns_ = 0;   // when the last tick began to look
    std::int64_t armed_ns_ = 0;       // when the round that is being read began
    std::int64_t lists_walked_ns_ = kLongAgoNs;
    std::int64_t read_ns_ = 0;
    bool can_follow_ = false;
    // When it could not move to a CPU, and stopped following for a while.
    std::optional<std::int64_t> refused_ns_;

    std::int64_t names_scanned_ns_ = kLongAgoNs;
    int nameless_scans_ = 0;  // that are still to be made soon, for threads without a name
    std::int64_t tick_interval_ns_ = 0;
    // Without BPF: CPU time of the process that is accounted for, or was used before the start, and
    // is of no living thread's clock.
    std::int64_t settled_ns_ = 0;
    std::int64_t last_settled_ns_ = kLongAgoNs;  // when
    // When CPU time was last told for the stand-in thread.
    std::optional<std::int64_t> unseen_told_ns_;
    bool is_unseen_announced_ = false;
    bool has_kernel_ticks_ = false;
    bool counts_from_birth_ = false;
    std::int64_t used_before_ns_ = 0;    // by the main thread, before this program
    std::int64_t unstarted_cpu_ns_ = 0;  // by it, when Python had not started; 0: told, or unknown
    std::uint32_t io_tid_ = 0;           // the agent's other thread
    bool has_ticked_ = false;
    bool is_stopping_ = false;
    bool must_pause_ = false;
    bool has_switched_ = false;  // a thread is in another interpreter than was thought

    struct Tally {
        std::uint64_t torn_retried, torn_marked, unproved, truncated, invalid, read_failures;
        std::uint64_t follow_moves, table_full;
        std::uint64_t snapshots, snapshots_unused;
    };
    Tally tally_{};
    std::uint64_t clock_reads_ = 0;
};

}  // namespace echion::agent
