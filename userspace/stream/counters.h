#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

/// The quality figures of one agent. They live in the ring's header, in shared memory, so that they
/// survive whatever ends the target. Only the sampler writes them; every one only grows.
namespace echion::stream {

enum class Counter : std::uint32_t {
    kTicks,
    kLateTicks,
    kMissedTicks,
    kSamples,
    kTornRetried,
    kTornMarked,
    kUnproved,
    kTruncated,
    kInvalid,
    kRingFullTicks,
    kReadFailures,
    kCodeRevalidated,
    kCodeReplaced,
    kTableFull,
    kNamesFailed,
    kLinesUnknown,
    kTasksCut,
    kSyscalls,
    kFollowMoves,
    kSnapshots,
    kSnapshotsUnused,
    kSamplerCpuNs,
    kSamplerTickNs,
    kSamplerReadNs,
    kWaits,
    kCount,
};

constexpr std::size_t kCounterCount = static_cast<std::size_t>(Counter::kCount);

struct CounterInfo {
    Counter counter;
    const char* name;         ///< Key in the output's footer.
    const char* description;  ///< For -v and the docs.
    bool is_defect = false;   ///< Above zero it means that something is missing from the profile.
};

/// One row a counter, in the order of the enumeration.
constexpr std::array<CounterInfo, kCounterCount> kCounters{{
    {Counter::kTicks, "ticks", "times that the sampler woke up and looked at all threads"},
    {Counter::kLateTicks, "late_ticks", "ticks that began more than half an interval late"},
    {Counter::kMissedTicks, "missed_ticks", "deadlines that passed without a tick", true},
    {Counter::kSamples, "samples", "stacks of threads observed"},
    {Counter::kTornRetried, "torn_retried", "stacks read again because they changed meanwhile"},
    {Counter::kTornMarked, "torn_marked", "stacks marked invalid because they kept changing", true},
    {Counter::kUnproved, "unproved", "stacks kept although their consistency was not proved"},
    {Counter::kTruncated, "truncated", "stacks cut at the bound on frames", true},
    {Counter::kInvalid, "invalid", "stacks that could not be walked to their root", true},
    {Counter::kRingFullTicks, "ring_full_ticks", "ticks dropped because the ring was full", true},
    {Counter::kReadFailures, "read_failures", "reads of target memory that failed"},
    {Counter::kCodeRevalidated, "code_revalidated", "cached code locations compared again"},
    {Counter::kCodeReplaced, "code_replaced", "code locations whose memory had been reused"},
    {Counter::kTableFull, "table_full", "times that a fixed-size table had no room", true},
    {Counter::kNamesFailed, "names_failed", "names that could not be read", true},
    {Counter::kLinesUnknown, "lines_unknown", "frames without a line, for its huge table", true},
    {Counter::kTasksCut, "tasks_cut", "stacks with tasks that could not all be read", true},
    {Counter::kSyscalls, "syscalls", "system calls made by the sampler"},
    {Counter::kFollowMoves, "follow_moves", "times the sampler moved to the GIL holder's CPU"},
    {Counter::kSnapshots, "snapshots", "stacks copied by the kernel in the tick"},
    {Counter::kSnapshotsUnused, "snapshots_unused",
     "of those, not complete, or of no known thread"},
    {Counter::kSamplerCpuNs, "sampler_cpu_ns", "CPU time used by the sampler thread"},
    {Counter::kSamplerTickNs, "sampler_tick_ns", "time spent in ticks, from wake-up to wait"},
    {Counter::kSamplerReadNs, "sampler_read_ns", "of it, time spent copying target memory"},
    {Counter::kWaits, "waits", "system calls made to wait for the next tick"},
}};

namespace detail {
consteval bool counters_in_order() {
    for (std::size_t i = 0; i < kCounterCount; ++i) {
        if (kCounters[i].counter != static_cast<Counter>(i) || kCounters[i].name == nullptr) {
            return false;
        }
    }
    return true;
}
}  // namespace detail
static_assert(detail::counters_in_order());

}  // namespace echion::stream
