#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/bpf/cpu_state_map.h"

namespace echion::engine {

/// CPU time that one thread, or several that had its number one after the other, used under watch.
struct ThreadCpu {
    std::uint32_t target_tid = 0;  ///< as the target sees it
    std::uint64_t cpu_ns = 0;
    std::uint64_t runnable_ns = 0;  ///< waited for a CPU; 0 too where the kernel keeps no count
    std::uint64_t ended_ns = 0;     ///< CLOCK_MONOTONIC of the last one's end; 0: it lives
};

/// The CPU time of the targets' threads, as the kernel counts it. A slot of the kernel's table
/// keeps a thread's final figure only until another thread is given it, so it is noted here before.
/// One thread.
class ThreadAccounts {
  public:
    /// One thread of all that ever had a slot.
    struct Holder {
        std::uint32_t slot;
        std::uint32_t generation;
        bool operator<(const Holder& other) const {
            return std::pair(slot, generation) < std::pair(other.slot, other.generation);
        }
    };

    /// Notes which threads have ended since the last call. To be called at least once in a slot's
    /// quarantine; the figures of others are lost, and counted. Reads the slots that have changed.
    void note_ended(const CpuStateMap& states);

    /// From here on counts for the target, whose main thread has this number as the target sees it.
    /// A thread that has been counted before since its program began (an earlier agent's, in the
    /// same process) begins anew; others count from when they came under watch.
    void begin(std::uint32_t target, std::uint32_t main_tid, const CpuStateMap& states);
    /// A thread of the target's agent: its time is nobody's.
    void leave_out(std::uint32_t target, Holder thread);
    /// The same of a thread, as the target numbers it, that may have ended by now.
    void leave_out_so_far(std::uint32_t target, std::uint32_t tid);
    void forget(std::uint32_t target) { targets_.erase(target); }

    /// What the target's threads have used since begin(), or until it ran another program (exec).
    /// `with_living`: also those that have not ended, up to now.
    [[nodiscard]] std::vector<ThreadCpu> count(std::uint32_t target, const CpuStateMap& states,
                                               bool with_living);

    /// Threads that began and ended, or were overlooked, between two calls of note_ended().
    [[nodiscard]] std::uint64_t missed() const { return missed_; }

  private:
    struct Account {
        std::uint64_t begun_ns = 0;  // CLOCK_MONOTONIC
        std::uint32_t main_tid = 0;
        std::uint64_t main_first_cpu_ns = 0;
        std::set<Holder> left_out;
        std::map<Holder, ThreadCpu> used_before;  // what they had used at begin()
        // By the target's thread number: those that began before then (CLOCK_MONOTONIC).
        std::unordered_map<std::uint32_t, std::uint64_t> left_out_before;

        [[nodiscard]] bool leaves_out(std::uint32_t slot, const CpuState& state) const;
        std::unordered_map<std::uint32_t, ThreadCpu> ended;  // by the target's thread number
    };

    struct Begun {
        std::uint32_t generation;
        std::uint64_t at_ns;  // CLOCK_MONOTONIC of the last begin()
    };

    [[nodiscard]] static ThreadCpu take_off(const Account& account, Holder holder, ThreadCpu used);

    std::unordered_map<std::uint32_t, Account> targets_;
    std::vector<Begun> begun_;                // by slot
    std::vector<CpuStateMap::Stamp> stamps_;  // by slot
    std::vector<std::uint32_t> generations_;  // by slot: the last that was noted to have ended
    std::uint64_t missed_ = 0;
};

}  // namespace echion::engine
