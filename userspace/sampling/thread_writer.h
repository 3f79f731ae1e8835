#pragma once

#include <cstddef>
#include <cstdint>

#include "sampling/cpu_watch.h"
#include "sampling/interpreters.h"
#include "sampling/last_stack.h"
#include "sampling/sampler_options.h"
#include "sampling/thread_table.h"
#include "sampling/tick_stream.h"

namespace echion::sampling {

/// Writes what is new of a thread into the stream. Asks nothing of the target. Sampler thread only.
class ThreadWriter {
  public:
    ThreadWriter(TickStream& ticks, ThreadTable& threads, const Interpreters& interpreters,
                 CpuWatch& watch, const SamplerOptions& options)
        : ticks_(ticks),
          threads_(threads),
          interpreters_(interpreters),
          watch_(watch),
          options_(options) {}

    /// Defines the thread, or gives it its new name.
    void announce(TrackedThread& thread);
    /// Ends the thread in the stream, if it is there.
    void end(TrackedThread& thread);
    /// Ends the thread, and takes it out of the table.
    void forget(TrackedThread& thread);

    /// The thread, which is announced, had this stack at `at_ns`; its frames are in `refs`.
    /// `flags`: stream::StackFlag. `may_have_run`: since it was last looked at. False when the
    /// stream has that stack.
    bool write_stack(TrackedThread& thread, const AssignedStack& stack, std::uint8_t flags,
                     bool may_have_run, std::int64_t at_ns);
    /// All of the thread's wall time is its own from now on, or (0) none.
    void write_share(TrackedThread& thread, std::uint32_t parts);
    /// The thread has no stack from now on, if it had one.
    void write_no_stack(TrackedThread& thread);
    /// The thread, which is announced, has used so much CPU time by now.
    void write_cpu(TrackedThread& thread, std::int64_t cpu_ns);

  private:
    [[nodiscard]] std::int64_t known_until_ns(const TrackedThread& thread) const;
    [[nodiscard]] bool has_waited_since(const TrackedThread& thread, std::int64_t since_ns,
                                        std::int64_t at_ns) const;
    void write_missed_since(TrackedThread& thread, std::int64_t known_ns);

    TickStream& ticks_;
    ThreadTable& threads_;
    const Interpreters& interpreters_;
    CpuWatch& watch_;
    const SamplerOptions& options_;
};

}  // namespace echion::sampling
