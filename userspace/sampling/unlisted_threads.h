#pragma once

#include <cstdint>

#include "base/mapping.h"
#include "sampling/cpu_watch.h"
#include "sampling/thread_table.h"
#include "stream/encoder.h"

namespace echion::sampling {

/// Threads of this process that Python's lists do not have, by their slots in the kernel's table:
/// those that have just begun, those that began and ended between two looks, and those of C code.
/// Their CPU time is in the stream under numbers behind those of the threads that Python knows.
/// Sampler thread only.
class UnlistedThreads {
  public:
    static Result<UnlistedThreads> make();

    /// What a tick has to know.
    struct Tick {
        std::int64_t now_ns;
        std::int64_t longest_gap_ns;  ///< more is time that nobody looked at
        bool cpu_mode;
    };
    /// The kernel has told something of a slot that no thread of the table has. True if its thread
    /// may have to enter its numbers still: the lists are worth a walk.
    bool note(std::uint32_t slot, const CpuWatch& watch, stream::Encoder& encoder,
              const Tick& tick);
    /// The thread is in Python's lists by now, with its slot: what has been told of it is not told
    /// again.
    void take_over(TrackedThread& thread, stream::Encoder& encoder);
    /// A batch was void: what was defined in it is not.
    void forget_announcements();

  private:
    struct Entry {
        std::uint32_t generation;
        std::int64_t met_ns;
        bool is_announced;
        bool is_foreign;      // has lived for long, and Python's lists have not had it
        std::int64_t cpu_ns;  // accounted for
    };

    void write_cpu(std::uint32_t slot, const engine::CpuState& state, bool is_unseen,
                   stream::Encoder& encoder, const Tick& tick);
    void end(std::uint32_t slot, stream::Encoder& encoder);

    FixedArray<Entry> entries_;
};

}  // namespace echion::sampling
