#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "base/mapping.h"
#include "bpf/abi.h"

namespace echion::engine {

/// What the kernel knows of one thread of the target, copied in one piece. Times are by the reading
/// process's CLOCK_MONOTONIC.
struct CpuState {
    std::uint32_t generation = 0;   ///< of the slot: another one is another thread
    std::uint32_t tid = 0;          ///< as the thread sees itself (gettid)
    std::uint32_t pid = 0;          ///< as the thread sees itself (getpid)
    std::uint32_t session_tid = 0;  ///< as the command-line program sees it; 0: it cannot
    std::uint32_t session_pid = 0;
    std::uint32_t creator_session_tid = 0;  ///< of the thread that started it; 0: not known
    std::uint32_t cpu = 0;                  ///< where it runs, or ran last
    std::uint16_t target = 0;               ///< which process of the session
    bool ended = false;                     ///< its figures are final
    echion_off_reason off_reason = ECHION_OFF_UNKNOWN;  ///< of the last switch away
    std::uint64_t on_cpu_ns = 0;         ///< CPU time up to the last switch, since it began
    std::uint64_t on_cpu_since_ns = 0;   ///< CLOCK_MONOTONIC; 0 while off CPU
    std::uint64_t off_cpu_since_ns = 0;  ///< CLOCK_MONOTONIC; 0 if it has not left a CPU yet
    std::uint64_t start_cpu_ns = 0;      ///< CPU time that it had used when it came under watch
    std::uint64_t started_ns = 0;        ///< CLOCK_MONOTONIC of when it came under watch
    std::uint64_t ended_ns = 0;          ///< CLOCK_MONOTONIC; 0 while it lives
    std::uint64_t program_ns = 0;        ///< CLOCK_MONOTONIC of its last exec under watch; 0: none
    std::uint64_t program_cpu_ns = 0;    ///< CPU time that it had used by then
    std::uint64_t run_count = 0;         ///< times switched in since it came under watch
    std::uint64_t run_delay_ns = 0;      ///< runnable without a CPU, up to the last switch away
    std::uint64_t start_run_delay_ns = 0;  ///< the same when it came under watch

    /// CPU time that it had used when its program came under watch: what came before is not
    /// counted.
    [[nodiscard]] std::uint64_t first_cpu_ns() const {
        return program_ns != 0 ? program_cpu_ns : start_cpu_ns;
    }
    [[nodiscard]] bool is_on_cpu() const { return on_cpu_since_ns != 0; }

    /// Time that it was runnable, but had no CPU, since it came under watch and up to `now_ns`.
    [[nodiscard]] std::uint64_t runnable_ns_at(std::uint64_t now_ns) const {
        const bool waits_for_cpu = !ended && !is_on_cpu() && off_reason == ECHION_OFF_PREEMPTED &&
                                   now_ns > off_cpu_since_ns;
        return run_delay_ns - start_run_delay_ns + (waits_for_cpu ? now_ns - off_cpu_since_ns : 0);
    }

    /// CPU time since the thread began, up to `now_ns` (CLOCK_MONOTONIC). While it runs this counts
    /// what the hypervisor stole too, so that a later figure can be smaller: account for a thread
    /// only what goes beyond what has been accounted for it already.
    [[nodiscard]] std::uint64_t cpu_ns_at(std::uint64_t now_ns) const {
        const bool counting = is_on_cpu() && now_ns > on_cpu_since_ns;
        return on_cpu_ns + (counting ? now_ns - on_cpu_since_ns : 0);
    }
};

/// The CPU state of every thread of the session's targets, kept up to date by BPF programs and
/// mapped read-only. Reading it makes no system call, does not wait, and does not allocate; any
/// thread may read. bpf/abi.h describes the memory.
///
/// The way to use it: note every slot's stamp; at each tick, look at the slots whose stamp has
/// changed or is_running(). A thread whose stamp stood still has not run: its stack is the same.
class CpuStateMap {
  public:
    using Stamp = std::uint32_t;

    /// Maps the table behind the descriptor, which may be closed afterwards. `clock_ahead_ns`: this
    /// process's CLOCK_MONOTONIC less the kernel's. kSystem when it cannot be mapped, kInvalid when
    /// it is not such a table, kProtocol when it is of another version.
    static Result<CpuStateMap> open(int fd, std::int64_t clock_ahead_ns = 0);

    /// Slots that there can be: what a table with one entry a slot needs.
    [[nodiscard]] std::uint32_t capacity() const { return capacity_; }
    /// Slots in use so far: the slots are those below this. Never decreases, at most capacity().
    [[nodiscard]] std::uint32_t used() const;
    /// Threads that found no slot: they are not in the table.
    [[nodiscard]] std::uint64_t refused() const;
    /// Size of the data part of a snapshot ring of this session; what SnapshotRing::open needs.
    [[nodiscard]] std::size_t snapshot_ring_bytes() const { return snapshot_ring_bytes_; }

    /// Changes whenever the slot's thread is switched in or away, ends, or is another one.
    [[nodiscard]] Stamp stamp(std::uint32_t slot) const {
        return __atomic_load_n(&stamps_[slot], __ATOMIC_ACQUIRE);
    }
    [[nodiscard]] static bool is_running(Stamp stamp) { return (stamp & 1) != 0; }

    /// Calls visit(slot, stamp) for each slot below used() whose stamp differs from `seen[slot]` or
    /// says running, and updates `seen`, which has capacity() elements, zero at first.
    template <typename Visit>
    void for_each_changed(std::span<Stamp> seen, Visit&& visit) const {
        for_each_changed_since(seen, [&](std::uint32_t slot, Stamp now) {
            seen[slot] = now;
            visit(slot, now);
        });
    }

    /// The same, but notes nothing: they are visited again.
    template <typename Visit>
    void for_each_changed_since(std::span<const Stamp> seen, Visit&& visit) const {
        const std::uint32_t end = used();
        for (std::uint32_t slot = 0; slot < end && slot < seen.size(); ++slot) {
            if (const Stamp now = stamp(slot); now != seen[slot] || is_running(now)) {
                visit(slot, now);
            }
        }
    }

    /// Copies one slot. kInvalid when the slot is not in use; kTorn when it kept changing (a
    /// bounded number of attempts; a writer holds a slot for some 50 ns).
    Result<CpuState> read(std::uint32_t slot) const;

    static constexpr std::uint32_t kAnyTarget = ~std::uint32_t{0};

    /// The slot of a living thread of process `pid`, both as the target sees them; processes of
    /// different PID namespaces may have the same, so that `target` tells whose. kInvalid when
    /// there is none (yet). A walk over all slots: for threads not met before.
    Result<std::uint32_t> find_slot(std::uint32_t pid, std::uint32_t tid,
                                    std::uint32_t target = kAnyTarget) const;

  private:
    [[nodiscard]] const echion_table& table() const {
        return *reinterpret_cast<const echion_table*>(mapping_.data());
    }

    Mapping mapping_;
    const std::uint32_t* stamps_ = nullptr;
    const echion_thread* threads_ = nullptr;
    std::uint32_t capacity_ = 0;
    std::size_t snapshot_ring_bytes_ = 0;
    std::int64_t clock_ahead_ns_ = 0;
};

}  // namespace echion::engine
