#pragma once

// The insides of a BpfSession, for the files that it is made of: bpf_session_open.cpp (loading and
// attaching), bpf_session.cpp (targets and figures) and bpf_session_ticks.cpp.

#include <sys/types.h>

#include <map>
#include <memory>
#include <optional>

#include "base/unique_fd.h"
#include "bpf/echion.skel.h"
#include "engine/bpf/bpf_session.h"
#include "engine/bpf/cpu_state_map.h"
#include "engine/perf/tick_events.h"

namespace echion::engine {

struct SkeletonDeleter {
    void operator()(echion_bpf* skeleton) const { echion_bpf__destroy(skeleton); }
};
using Skeleton = std::unique_ptr<echion_bpf, SkeletonDeleter>;

struct BpfSession::Impl {
    BpfOptions options;
    Skeleton skeleton;
    CpuStateMap states;
    // Those that this program added: it still knows their numbers when they have ended.
    std::map<pid_t, Target> added;
    std::map<Target, UniqueFd> rings;
    std::map<Target, TickEvents> timers;
    ThreadAccounts accounts;
    std::map<Target, ThreadAccounts::Holder> samplers;  // of targets whose ticks have been started
    bool has_wall_program = true;
    bool has_loop_helper = true;
    UniqueFd stats;        // while it is open, the kernel measures the programs
    UniqueFd first_event;  // while it is open, no other perf event makes the kernel wait

    /// What the programs know of the target; none where the map cannot be read.
    [[nodiscard]] std::optional<echion_target_state> read_target(Target target) const;
    /// The target that is the living process.
    [[nodiscard]] std::optional<Target> find_living(pid_t pid) const;
    /// Whether the slot is still this thread's, and the thread has not ended.
    [[nodiscard]] bool lives(const ThreadAccounts::Holder& thread) const;
    /// Has the programs enter a process, and those of its threads that they do not know yet.
    [[nodiscard]] Status enter_threads(pid_t pid);
    /// The slot of one of its threads. Has it entered if the kernel had no memory, or its lock, for
    /// the thread when it began (bpf_task_storage_get).
    [[nodiscard]] Result<std::uint32_t> find_or_enter(const echion_target_state& process,
                                                      std::uint32_t target_tid, Target target);
    /// What the ticks' programs are to do for the target. Returns zero or minus an errno.
    [[nodiscard]] int write_config(Target target, const echion_target_config& config) const;
};

}  // namespace echion::engine
