#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "base/mapping.h"
#include "cpython/layout.h"
#include "engine/bpf/cpu_state_map.h"
#include "engine/bpf/snapshot_ring.h"
#include "sampling/process_facts.h"
#include "sampling/thread_table.h"

namespace echion::sampling {

/// What the BPF programs tell the sampler: which threads have run since the last tick, how much CPU
/// time each has used, and the stacks that they have seen. Closed until open(); then every thread
/// of the process has a slot in the kernel's table, and the threads that the sampler knows are
/// found by it. Sampler thread only; nothing allocates after open().
class CpuWatch {
  public:
    /// `target`: this process's number among the session's. `clock_ahead_ns`: its clock less the
    /// kernel's. `snapshots_fd`: -1 for none. The slots of the agent's threads, which `facts` has,
    /// are nobody's. Where Python came late, what has been used by now does not count.
    Status open(int state_fd, std::uint32_t target, std::int64_t clock_ahead_ns, int snapshots_fd,
                const ProcessFacts& facts);
    [[nodiscard]] bool is_open() const { return is_open_; }

    /// The layout of this version for the tick's program; all zero when there are no snapshots.
    [[nodiscard]] echion_snapshot_layout snapshot_layout(const cpython::Layout& layout) const;

    /// Gives a thread its slot, if the kernel has one for it.
    void attach(TrackedThread& thread);
    void detach(TrackedThread& thread);
    /// Gives `to` the slot of `from`, another state of the same thread.
    void hand_over(TrackedThread& from, TrackedThread& to);

    /// Looks which threads have run: sets `has_run` of those that the sampler knows, and calls
    /// `visit_unlisted(slot)` for slots that belong to none of them, at each change;
    /// `visit_ran(thread)`, and `visit_ended(thread, state)` for one whose slot has become final.
    template <typename VisitUnlisted, typename VisitRan, typename VisitEnded>
    void look(VisitUnlisted&& visit_unlisted, VisitRan&& visit_ran, VisitEnded&& visit_ended) {
        states_.for_each_changed(
            stamps(), [&](std::uint32_t slot, engine::CpuStateMap::Stamp stamp) {
                if (slot == own_slot_ || slot == io_slot_) {
                    return;
                }
                TrackedThread* thread = owners_[slot];
                if (thread == nullptr) {
                    visit_unlisted(slot);
                    return;
                }
                thread->has_run = true;
                thread->is_on_cpu = engine::CpuStateMap::is_running(stamp);
                visit_ran(*thread);
                if (!thread->is_on_cpu) {
                    const auto state = states_.read(slot);
                    if (state && (state->ended || state->generation != thread->slot_generation)) {
                        visit_ended(*thread, *state);
                    }
                }
            });
    }

    /// Sets `has_run` of known threads that have run since look(), or run now; the next look()
    /// visits them, too.
    void look_again() {
        states_.for_each_changed_since(
            stamps(), [&](std::uint32_t slot, engine::CpuStateMap::Stamp stamp) {
                if (TrackedThread* thread = owners_[slot]; thread != nullptr) {
                    thread->has_run = true;
                    thread->is_on_cpu = engine::CpuStateMap::is_running(stamp);
                }
            });
    }

    /// Whether the kernel is to copy stacks at all. A tick without a copy signals the sampler at
    /// once; one whose copy is of no use would have it come late.
    void want_snapshots(bool wanted);
    /// A copy of this thread's stack was of no use. It depends on the stack whether one is, and the
    /// CPU time would go to a stack that comes later, always from one to the other: for some time
    /// each tick of the thread signals at once; for longer if it happens again.
    void withhold_snapshots(TrackedThread& thread, std::int64_t now_ns);
    /// Has the kernel copy the thread's stacks again if that time is over.
    void end_withholding(TrackedThread& thread, std::int64_t now_ns);
    /// Calls visit(thread, snapshot) for each stack that has come, oldest first; those of threads
    /// that are not known (any more) are counted as lost.
    template <typename Visit>
    void drain(Visit&& visit) {
        if (!has_snapshots_) {
            return;
        }
        const auto drained = ring_.drain([&](const engine::SnapshotView& snapshot) {
            const std::uint32_t slot = snapshot.head.slot;
            TrackedThread* thread = slot < states_.capacity() ? owners_[slot] : nullptr;
            if (thread == nullptr || thread->slot_generation != snapshot.head.generation ||
                thread->state.value() != snapshot.head.thread_state) {
                ++lost_;
                return;
            }
            visit(*thread, snapshot);
        });
        lost_ += !drained;
    }

    [[nodiscard]] Result<engine::CpuState> read(std::uint32_t slot) const {
        return states_.read(slot);
    }
    /// The same, of a slot of this process; kInvalid for another's, for a thread that ended with
    /// the program that this process ran before (exec), and for the agent's own.
    [[nodiscard]] Result<engine::CpuState> read_own(std::uint32_t slot) const;
    /// CPU time that the slot's thread had used when it came under watch, or at open().
    [[nodiscard]] std::int64_t first_cpu_ns(std::uint32_t slot,
                                            const engine::CpuState& state) const;
    [[nodiscard]] std::uint64_t lost_snapshots() const { return lost_; }

  private:
    Status note_starts();
    void offer_snapshots(const TrackedThread& thread);
    std::span<engine::CpuStateMap::Stamp> stamps() { return {stamps_.data(), stamps_.capacity()}; }

    bool is_open_ = false;
    bool has_snapshots_ = false;
    bool wants_snapshots_ = true;
    std::uint32_t own_slot_ = TrackedThread::kNoSlot;
    std::uint32_t io_slot_ = TrackedThread::kNoSlot;  // of the agent's other thread
    std::array<std::uint32_t, 2> own_tids_{};         // of these two
    std::array<std::uint32_t, control::kHelperThreads> helper_tids_{};  // of threads before
    std::uint64_t opened_ns_ = 0;                                       // this moment
    std::uint32_t pid_ = 0;
    std::uint32_t target_ = 0;
    std::uint64_t program_ns_ = 0;  // CLOCK_MONOTONIC of its exec under watch; 0: none
    engine::CpuStateMap states_;
    engine::SnapshotRing ring_;
    engine::ThreadRefTable refs_;
    FixedArray<engine::CpuStateMap::Stamp> stamps_;
    FixedArray<TrackedThread*> owners_;  // by slot
    struct Start {
        std::uint32_t generation;
        std::uint64_t cpu_ns;
    };
    FixedArray<Start> starts_;  // by slot, of a late session
    std::uint64_t lost_ = 0;
};

}  // namespace echion::sampling
