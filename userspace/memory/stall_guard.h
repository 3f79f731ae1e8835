#pragma once

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <span>

#include "base/clock.h"
#include "memory/reader.h"

namespace echion {

/// One read of a process's memory that has not come back after this has stalled: its page comes
/// from a file system or a userfaultfd(2) server that does not answer. A page from a slow disk
/// takes milliseconds, from one that has to spin up first some seconds.
constexpr std::int64_t kStalledReadNs = 5 * kNanosPerSecond;

/// Notes until when what the owning thread does now has to be done, for a watcher on another
/// thread. A read that the target's side holds up cannot be interrupted by a signal, only by the
/// end of this program (process_vm_readv(2), pread(2) on FUSE: the kernel's wait is TASK_KILLABLE):
/// so the watcher ends the program.
///
/// A section is as cheap as a look at the clock and two atomic exchanges. Sections may lie within
/// each other; the nearest deadline counts. All but find_late() and give_up() on the owning thread.
class StallGuard {
  public:
    /// Work that is to be done within `limit_ns`. If the watcher has given the work up meanwhile,
    /// the destructor does not return: the watcher has taken over what belongs to this thread.
    class Section {
      public:
        /// A null guard makes a section without a limit.
        Section(StallGuard* guard, std::int64_t limit_ns) : guard_(guard) {
            if (guard_ != nullptr) {
                outer_ns_ = guard_->deadline_ns_.load(std::memory_order_relaxed);
                const std::int64_t own_ns = monotonic_ns() + limit_ns;
                guard_->set(outer_ns_ == kNone ? own_ns : std::min(outer_ns_, own_ns));
            }
        }
        ~Section() {
            if (guard_ != nullptr) {
                guard_->set(outer_ns_);
            }
        }
        Section(const Section&) = delete;
        Section& operator=(const Section&) = delete;

      private:
        StallGuard* guard_;
        std::int64_t outer_ns_ = kNone;
    };

    /// For the watcher, on any thread: the deadline that has passed; 0 when none has.
    [[nodiscard]] std::int64_t find_late(std::int64_t now_ns) const {
        const std::int64_t deadline_ns = deadline_ns_.load(std::memory_order_acquire);
        return deadline_ns > 0 && now_ns >= deadline_ns ? deadline_ns : 0;
    }
    /// Takes over the work whose deadline this is. False when it is done by now, or something else
    /// is being done.
    bool give_up(std::int64_t late_ns) {
        return deadline_ns_.compare_exchange_strong(late_ns, kGivenUp, std::memory_order_acq_rel);
    }

  private:
    static constexpr std::int64_t kNone = 0;
    static constexpr std::int64_t kGivenUp = -1;

    void set(std::int64_t deadline_ns) {
        if (deadline_ns_.exchange(deadline_ns, std::memory_order_acq_rel) == kGivenUp) {
            for (;;) {
                pause();  // the watcher ends the program
            }
        }
    }

    std::atomic<std::int64_t> deadline_ns_{kNone};
};

/// A reader whose every read is a section of a guard (none: without limits).
class GuardedReader final : public MemoryReader {
  public:
    /// Both outlive it.
    GuardedReader(MemoryReader& reader, StallGuard* guard) : reader_(reader), guard_(guard) {}

    std::size_t read(std::span<const ReadRequest> requests) noexcept override {
        const StallGuard::Section section(guard_, kStalledReadNs);
        return reader_.read(requests);
    }

  private:
    MemoryReader& reader_;
    StallGuard* guard_;
};

}  // namespace echion
