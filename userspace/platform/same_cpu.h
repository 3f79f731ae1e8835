#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/error.h"
#include "memory/address.h"

namespace echion {

/// Proves that another thread of this process stood still while the calling thread copied its
/// stack: as long as this thread runs on the CPU that the other one belongs to, the other one does
/// not run.
///
/// The proof, for a thread T and a stretch of this thread's time between arm() and undisturbed():
///   1. undisturbed() is true: this thread was neither preempted nor moved, so nothing else ran
///      on this CPU.
///   2. A read of T's CPU number, taken last, gives this CPU. The kernel writes the number before T
///      returns to user code on another CPU (rseq(2)); had T run user code elsewhere in between, it
///      would show that CPU, and it cannot have come back here, where this thread was running.
///
/// Linux: both come from the rseq areas that glibc 2.35 and later register for every thread.
/// Without them, preemption is told from getrusage(RUSAGE_THREAD), and the CPU is not known
/// (has_cpu_numbers() is false). By one thread only, the one that reads; nothing allocates.
class SameCpu {
  public:
    /// Where threads of this process have the area that the kernel keeps up to date, as a distance
    /// from their pthread_t; 0 when they have none. Asks the dynamic loader: not for the sampler
    /// thread.
    static std::intptr_t find_thread_area_offset();

    /// To be called by the thread that will use this object. `area_offset` as found before.
    void open(std::intptr_t area_offset);

    /// Begins a stretch.
    void arm();
    /// Whether this thread has kept its CPU since arm(). May be asked repeatedly.
    [[nodiscard]] bool undisturbed();

    /// Whether cpu_number_address() works.
    [[nodiscard]] bool has_cpu_numbers() const { return area_offset_ != 0; }
    /// Where the CPU number (uint32_t) of the thread with pthread `thread_id` stands.
    [[nodiscard]] Address cpu_number_address(std::uintptr_t thread_id) const;
    /// The CPU of the calling thread.
    [[nodiscard]] std::uint32_t own_cpu() const;
    /// Moves the calling thread to `cpu` and keeps it there. kRefused where it may not run there.
    Status move_to(std::uint32_t cpu);
    /// Lets the calling thread run again where it could before the first move since the last
    /// release; anywhere, if none of those CPUs can be had any more, or it could not be told.
    void release();

    /// System calls made so far.
    [[nodiscard]] std::uint64_t system_calls() const { return system_calls_; }

  private:
    static constexpr std::size_t kMaxCpus = 8192;  // as many as the kernel can be built for
    static constexpr std::size_t kWordBits = 8 * sizeof(unsigned long);
    using CpuMask = std::array<unsigned long, kMaxCpus / kWordBits>;  // as sched_setaffinity(2)

    std::int64_t switches();

    std::intptr_t area_offset_ = 0;  // from a thread's pthread_t to that area
    void* own_area_ = nullptr;
    std::uintptr_t mark_ = 0;  // what arm() leaves for preemption to clear; 0: there is none
    bool pinned_ = false;
    CpuMask kept_{};  // of a pinned thread: where it could run before
    std::int64_t armed_switches_ = 0;
    std::uint64_t system_calls_ = 0;
};

}  // namespace echion
