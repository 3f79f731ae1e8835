#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tl/expected.hpp>
#include <vector>

#include "base/error.h"
#include "bpf/abi.h"
#include "engine/bpf/thread_accounts.h"
#include "engine/privileges.h"

namespace echion::engine {

struct BpfOptions {
    /// Threads that there is room for, 1 to ECHION_MAX_THREADS; a slot takes 132 bytes of kernel
    /// memory.
    std::uint32_t thread_capacity = ECHION_DEFAULT_THREADS;
    /// Processes that a target forks become targets too.
    bool follow_children = false;
    /// Of each target's ring: a power of two, at least a page.
    std::uint32_t snapshot_ring_bytes = ECHION_SNAPSHOT_RING_BYTES;
    std::uint64_t quarantine_ns = ECHION_SLOT_QUARANTINE_NS;
    /// This process's CLOCK_MONOTONIC less the kernel's, by which the programs keep time.
    std::int64_t clock_ahead_ns = 0;
    /// Behave as on kernels before 5.13, which have no task storage for tracing programs: for
    /// tests.
    bool without_task_storage = false;
    /// Behave as on kernels before 5.17, which have no bpf_loop(): for tests.
    bool without_loop_helper = false;
};

/// What the agent asked for in control::Arm, and the session's mode.
struct TimerRequest {
    bool wall = true;  ///< a tick every interval; else after so much CPU time
    std::int64_t interval_ns = 1'000'000;
    std::uint32_t sampler_tid = 0;      ///< as the target sees it
    int signal = 0;                     ///< SIGRTMIN to SIGRTMAX
    echion_snapshot_layout snapshot{};  ///< from the target: not trusted; thread_refs 0: none
    std::uint32_t io_tid = 0;           ///< the agent's other thread, as the target sees it
    /// Those that brought the agent in, which may have ended; 0: none.
    std::array<std::uint32_t, 2> helper_tids{};
};

/// What came of it: control::Armed, and what -v says.
struct TimerReport {
    std::int64_t interval_ns = 0;  ///< of the ticks; longer than asked for if the kernel limits it
    bool snapshots = false;
    std::size_t thread_events = 0;
    std::size_t threads_without_event = 0;
};

struct BpfProgramStats {
    std::string name;
    std::uint64_t run_count = 0;
    std::uint64_t run_ns = 0;  ///< zero unless statistics were switched on (enable_stats)
    std::uint32_t instructions = 0;
};

/// The BPF programs and maps of one run of echion, and the perf events of its targets. Everything
/// is held by descriptors of this process alone, nothing is pinned: when the process ends, however
/// it ends, the kernel removes all of it. Any number of sessions can exist side by side.
///
/// One thread at a time.
class BpfSession {
  public:
    /// Loads and attaches. On failure says which step the kernel refused, why, and the remedy.
    static tl::expected<std::unique_ptr<BpfSession>, Unavailable> open(const BpfOptions& options);
    ~BpfSession();
    BpfSession(const BpfSession&) = delete;
    BpfSession& operator=(const BpfSession&) = delete;

    /// Number of a target in this session, below ECHION_MAX_TARGETS.
    using Target = std::uint32_t;

    /// Puts the process (as this one sees it) under watch: its threads now, and those to come.
    /// kSystem ESRCH when it does not exist, kNoSpace when there are too many. A process that is a
    /// target already (a followed child) keeps its number.
    Result<Target> add_target(pid_t pid);
    /// The number of a process that is under watch, or that add_target() put there and that has
    /// ended since: until remove_target().
    [[nodiscard]] std::optional<Target> find_target(pid_t pid) const;
    /// Forgets the target: its timers stop, its number and ring are free. Threads that still live
    /// keep their slots until they end.
    void remove_target(Target target);

    /// For the agent: the state map, which nobody can write any more (FdKind::kBpfState). Borrowed.
    [[nodiscard]] int state_fd() const;
    /// For the agent of this target: its ring (FdKind::kBpfSnapshots), made at the first call.
    /// Borrowed.
    Result<int> snapshot_fd(Target target);

    /// Starts the target's ticks. On failure none run. kProtocol when the request breaks a rule.
    Result<TimerReport> start_timer(Target target, const TimerRequest& request);
    void stop_timer(Target target);
    /// ThreadAccounts::count() of the target, but the thread that the ticks wake. Empty if ticks
    /// were never started.
    [[nodiscard]] std::vector<ThreadCpu> count_cpu(Target target, bool with_living);
    /// ThreadAccounts::note_ended(): to be called at least once in the quarantine of a slot.
    void note_ended();
    /// Threads whose figures note_ended() came too late for.
    [[nodiscard]] std::uint64_t threads_missed() const;
    /// Keeps the wall clocks of all targets running when CPUs go offline. Once a second is enough.
    Status keep_ticking();

    /// Sums over all CPUs, by enum echion_counter.
    [[nodiscard]] std::array<std::uint64_t, ECHION_COUNTERS> counters() const;
    /// Lets the kernel measure the programs' run time, at some 20 ns a run, while this lives.
    Status enable_stats();
    [[nodiscard]] std::vector<BpfProgramStats> program_stats() const;
    /// Threads that were not given a slot.
    [[nodiscard]] std::uint64_t threads_refused() const;

    struct Impl;

  private:
    explicit BpfSession(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

/// Whether this build contains the programs at all.
bool bpf_is_built_in();

/// Whether the layout that a target sent can be given to the program: every field within bounds.
bool is_valid(const echion_snapshot_layout& layout);

}  // namespace echion::engine
