#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/clock.h"
#include "sampling/cpu_watch.h"
#include "sampling/process_facts.h"
#include "sampling/python_memory.h"
#include "sampling/sampler_options.h"
#include "sampling/thread_naming.h"
#include "sampling/thread_table.h"
#include "sampling/thread_writer.h"
#include "sampling/tick_stream.h"
#include "sampling/unlisted_threads.h"

namespace echion::sampling {

/// The CPU time of the process: of threads that Python knows, of those that it does not, and of
/// those that have ended. From the kernel's table where there is one (CpuWatch); else from the
/// threads' clocks and the process's. Sampler thread only.
class CpuAccounts {
  public:
    CpuAccounts(PythonMemory& memory, TickStream& ticks, ThreadTable& threads, CpuWatch& watch,
                ThreadWriter& writer, ThreadNaming& naming, const SamplerOptions& options)
        : memory_(memory),
          ticks_(ticks),
          threads_(threads),
          watch_(watch),
          writer_(writer),
          naming_(naming),
          options_(options) {}
    Status reserve();
    /// `unstarted_cpu_ns`: what the main thread had used when Python had not started; 0: unknown.
    void start(const ProcessFacts& facts, std::int64_t unstarted_cpu_ns);

    /// A thread that has just been met is new: all its CPU time counts.
    [[nodiscard]] bool counts_new_threads() const { return from_birth_ || ticks_.has_looked(); }
    /// The thread has its number: looks for its slot in the kernel's table.
    void attach(TrackedThread& thread);
    /// The same, where it is known by now who the thread is: what has been told of it before is not
    /// told again.
    void open(TrackedThread& thread);
    /// Begins an account for a state whose thread had none so far.
    void begin(TrackedThread& thread);
    /// The account of `from` goes on as that of `to`, another state of the same thread.
    void hand_over(TrackedThread& from, TrackedThread& to);
    /// The kernel's table has nothing of the thread any more.
    void detach(TrackedThread& thread) { watch_.detach(thread); }
    /// Whether its CPU time can be told.
    [[nodiscard]] bool has_clock(const TrackedThread& thread) const {
        return !watch_.is_open() || has_own_slot(thread);
    }
    /// Closes the account of a thread that has ended.
    void close(TrackedThread& thread);

    /// Something has changed of a slot that no thread of the table has. True if its thread may be
    /// Python's, and has to be looked for in the lists.
    bool note_unlisted(std::uint32_t slot);

    void write(TrackedThread& thread);
    void write_up_to(TrackedThread& thread, std::int64_t cpu_ns);
    /// Of a thread that goes on without Python: up to now to its last stack, then to none.
    void write_after_leaving(TrackedThread& thread);
    void write_all(bool is_last);
    /// What the main thread used while Python had not started is time without a stack. It would
    /// else be time that nobody looked at, once it is long. To be called between two rounds of
    /// reading.
    void write_unstarted();

    void forget_announcements();

  private:
    [[nodiscard]] bool has_own_slot(const TrackedThread& thread) const {
        return thread.slot != TrackedThread::kNoSlot;
    }
    void succeed_former_state(TrackedThread& thread);
    bool lives_on(const TrackedThread& thread);
    void settle_unclaimed(std::int64_t living_ns, std::size_t left_count, bool is_last);
    void write_unseen(std::int64_t cpu_ns);
    void skip_told_as_unseen(TrackedThread& thread, std::int64_t cpu_ns);

    PythonMemory& memory_;
    TickStream& ticks_;
    ThreadTable& threads_;
    CpuWatch& watch_;
    ThreadWriter& writer_;
    ThreadNaming& naming_;
    const SamplerOptions& options_;
    UnlistedThreads unlisted_;
    bool from_birth_ = false;
    std::int64_t used_before_ns_ = 0;  // by the main thread, before this program
    std::int64_t unstarted_ns_ = 0;    // by it, when Python had not started; 0: told, or unknown
    std::uint32_t io_tid_ = 0;         // the agent's other thread
    // Without BPF: CPU time of the process that is accounted for, or was used before the start, and
    // is of no living thread's clock.
    std::int64_t settled_ns_ = 0;
    std::int64_t last_settled_ns_ = kLongAgoNs;  // when
    // When CPU time was last told for the stand-in thread.
    std::optional<std::int64_t> unseen_told_ns_;
    bool is_unseen_announced_ = false;
};

}  // namespace echion::sampling
