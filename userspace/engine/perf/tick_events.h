#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/error.h"
#include "base/function_ref.h"
#include "base/unique_fd.h"
#include "engine/host_engine.h"

namespace echion::engine {

/// What makes the ticks of one target. All numbers of threads are this process's.
struct TickRequest {
    pid_t pid = 0;
    pid_t sampler_tid = 0;
    int signal = 0;
    std::int64_t interval_ns = 1'000'000;
    bool wall = true;  ///< A tick every interval; else after so much CPU time of a thread.
    bool follow_children = false;
    bool thread_events = true;   ///< False: no events on the threads (wall mode without snapshots).
    std::uint32_t target = 0;    ///< number of the target: the wall program's cookie
    int thread_program_fd = -1;  ///< -1: none runs; every tick of a thread sends a signal
    int wall_program_fd = -1;    ///< -1: every tick of the wall clock sends a signal
    bool user_only = false;      ///< Events on threads tick in user mode only (perf::TimerOptions).
};

/// Who started a thread, and when (CLOCK_MONOTONIC).
struct ThreadOrigin {
    pid_t tid = 0;
    pid_t creator = 0;
    std::uint64_t started_ns = 0;
};
/// The origins of the target's threads, as far as they are known by now.
using FindOrigins = FunctionRef<std::vector<ThreadOrigin>()>;

/// The perf events of one target. They tick, and signal the sampler, as long as this lives; its
/// descriptors are the only ones.
///
/// Threads that the target starts later inherit the events of the thread that started them.
class TickEvents {
  public:
    /// Opens and starts them. kSystem with the errno of perf_event_open when one could not be
    /// opened in CPU mode, where a thread without one would not tick, or not even one in wall mode.
    /// `find_origins` spares threads that have inherited an event another one.
    static Result<TickEvents> start(const TickRequest& request, FindOrigins find_origins);

    /// Opens the wall clock's event anew, on a CPU that is there, if its own has gone offline since
    /// the last call, be it for a moment. To be called now and then (a second); does nothing in CPU
    /// mode. On errors the old one stays.
    Status keep_ticking();

    /// Threads that got an event of their own.
    [[nodiscard]] std::size_t thread_events() const { return thread_events_.size(); }
    /// Threads of the target for which none could be opened (too many open files): wall mode only.
    [[nodiscard]] std::size_t threads_without_event() const { return refused_; }
    /// CPU of the wall clock's event; -1 in CPU mode.
    [[nodiscard]] int wall_cpu() const { return wall_cpu_; }

  private:
    explicit TickEvents(const TickRequest& request) : request_(request) {}

    Status open_wall_clock();
    bool has_stood_still();
    Status open_threads(FindOrigins find_origins);
    Status open_thread(pid_t tid);
    Status attach_wall_program();

    TickRequest request_;
    UniqueFd wall_event_;
    UniqueFd wall_link_;
    int wall_cpu_ = -1;
    // How long its event had run when that was last looked at, and when; 0: not yet.
    std::int64_t wall_running_ns_ = 0;
    std::optional<std::int64_t> wall_looked_ns_;
    std::vector<UniqueFd> thread_events_;
    // When the thread's event was open, CLOCK_MONOTONIC ns: what it started later has inherited it.
    std::unordered_map<pid_t, std::uint64_t> covered_since_;
    std::size_t refused_ = 0;
};

/// What TickEvents::start() failed with for the process, and with the remedy where there is one.
Refusal explain_refusal(pid_t pid, const Error& error);

}  // namespace echion::engine
