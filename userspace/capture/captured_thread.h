#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "capture/run_watch.h"
#include "memory/address.h"

namespace echion::capture {

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
    bool shares_number = false;    ///< another state names the same one
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
    bool had_gil_last = false;  ///< it held the GIL, or held it last, when it was listed
    /// Another thread was seen to run with the state than the one whose numbers it keeps, its
    /// maker (PyThreadState_New(); sub-interpreters up to 3.11).
    bool is_lent = false;
    std::size_t first_frame = 0;
    std::size_t frame_count = 0;
    /// It runs an event loop, whose tasks have been read (TaskStore).
    bool has_tasks = false;
    /// Of tasks, greenlets and the stack, together.
    Consistency tasks_consistency = Consistency::kProved;
    bool are_tasks_cut = false;  ///< there may be more, or links that are not known
    std::size_t first_task = 0;
    std::size_t task_count = 0;
    bool are_greenlets_cut = false;  ///< likewise
    std::size_t first_greenlet = 0;
    std::size_t greenlet_count = 0;  ///< none: it has but its main greenlet

    /// Notes that it is lent: forgets what is its maker's.
    void lend() {
        is_lent = true;
        is_main = false;
        tid = 0;
        native_id = 0;
        kernel_state = '?';
        cpu_ticks = 0;
        scheduling = Scheduling::kUnknown;
    }
};

}  // namespace echion::capture
