#pragma once

#include <cstdint>
#include <string_view>

#include "base/clock.h"
#include "cpython/thread_names.h"
#include "sampling/interpreters.h"
#include "sampling/python_memory.h"
#include "sampling/thread_table.h"
#include "sampling/thread_writer.h"
#include "sampling/tick_stream.h"

namespace echion::sampling {

/// Finds the names that `threading` has for threads, and sees to it that the stream has a thread's
/// name before anything else of it. Sampler thread only.
class ThreadNaming {
  public:
    ThreadNaming(PythonMemory& memory, TickStream& ticks, ThreadTable& threads,
                 Interpreters& interpreters, ThreadWriter& writer)
        : memory_(memory),
          ticks_(ticks),
          threads_(threads),
          interpreters_(interpreters),
          writer_(writer) {}
    Status reserve();

    /// Announces the thread, by its name if it has one, unless the stream has it.
    void introduce(TrackedThread& thread);
    /// To be called before the thread ends in the stream: what it has had so far would else stay
    /// without its name.
    void name_at_last(TrackedThread& thread);
    /// Looks at all names anew, where that is due.
    void refresh();
    /// A thread without a name has gone on: it has had the time to enter one.
    void expect_name(TrackedThread& thread);

    /// The thread with this pthread_t has begun, or has ended: what an earlier one was called is
    /// not its name.
    void forget(std::int64_t interpreter_id, std::uintptr_t thread_id) {
        names_.forget(interpreter_id, thread_id);
    }
    void forget_interpreter(std::int64_t interpreter_id) {
        names_.forget_interpreter(interpreter_id);
    }
    void clear() { names_.clear(); }

  private:
    // Of names, after a thread without one has appeared. Their number counts, not the time: a
    // sampler that gets no CPU makes none in it.
    static constexpr int kNamelessScans = 20;

    void scan();
    [[nodiscard]] std::string_view find_name(const TrackedThread& thread) const;
    bool is_named_by_right(const TrackedThread& thread);
    bool note_name(TrackedThread& thread);
    bool do_without_name(TrackedThread& thread);

    PythonMemory& memory_;
    TickStream& ticks_;
    ThreadTable& threads_;
    Interpreters& interpreters_;
    ThreadWriter& writer_;
    cpython::ThreadNames names_;
    std::int64_t scanned_ns_ = kLongAgoNs;
    int nameless_scans_ = 0;  // that are still to be made soon, for threads without a name
};

}  // namespace echion::sampling
