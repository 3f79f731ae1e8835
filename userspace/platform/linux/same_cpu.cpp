#include "platform/same_cpu.h"

#include <dlfcn.h>
#include <linux/rseq.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>

#include "platform/linux/preemption_mark.h"

namespace echion {
namespace {

// Refused (seccomp): then nothing is proved.
constexpr std::int64_t kUnknownSwitches = -1;

}  // namespace

std::intptr_t SameCpu::find_thread_area_offset() {
    // The two symbols came with glibc 2.35; elsewhere there is nothing to look for.
    const auto* offset = static_cast<const std::ptrdiff_t*>(dlsym(RTLD_DEFAULT, "__rseq_offset"));
    const auto* size = static_cast<const unsigned*>(dlsym(RTLD_DEFAULT, "__rseq_size"));
    // __rseq_offset counts from the thread pointer, which pthread_t is on x86 and not everywhere.
    const bool is_usable = offset != nullptr && size != nullptr && *size != 0 &&
                           reinterpret_cast<std::uintptr_t>(pthread_self()) ==
                               reinterpret_cast<std::uintptr_t>(__builtin_thread_pointer());
    return is_usable ? *offset : 0;
}

void SameCpu::open(std::intptr_t area_offset) {
    if (area_offset == 0) {
        return;
    }
    auto* area = reinterpret_cast<rseq*>(reinterpret_cast<std::uintptr_t>(pthread_self()) +
                                         static_cast<std::uintptr_t>(area_offset));
    if (static_cast<std::int32_t>(area->cpu_id) < 0) {
        return;  // not registered: an old kernel, or glibc.pthread.rseq=0
    }
    area_offset_ = area_offset;
    own_area_ = area;
    mark_ = preemption_mark();
}

std::int64_t SameCpu::switches() {
    rusage usage{};
    ++system_calls_;
    if (getrusage(RUSAGE_THREAD, &usage) != 0) {
        return kUnknownSwitches;
    }
    return static_cast<std::int64_t>(usage.ru_nivcsw) + usage.ru_nvcsw;
}

void SameCpu::arm() {
    if (mark_ == 0) {
        armed_switches_ = switches();
        return;
    }
    auto& section = static_cast<rseq*>(own_area_)->rseq_cs;
    std::atomic_ref(section).store(mark_, std::memory_order_relaxed);
    // The kernel clears it on this very CPU, in this thread: only the compiler could reorder.
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

bool SameCpu::undisturbed() {
    // What was copied until now was copied before: other threads write on other CPUs.
    std::atomic_thread_fence(std::memory_order_acquire);
    if (mark_ == 0) {
        return armed_switches_ != kUnknownSwitches && switches() == armed_switches_;
    }
    auto& section = static_cast<rseq*>(own_area_)->rseq_cs;
    return std::atomic_ref(section).load(std::memory_order_relaxed) != 0;
}

Address SameCpu::cpu_number_address(std::uintptr_t thread_id) const {
    return Address(thread_id + static_cast<std::uintptr_t>(area_offset_) + offsetof(rseq, cpu_id));
}

std::uint32_t SameCpu::own_cpu() const {
    if (own_area_ != nullptr) {
        return std::atomic_ref(static_cast<rseq*>(own_area_)->cpu_id)
            .load(std::memory_order_relaxed);
    }
    return static_cast<std::uint32_t>(sched_getcpu());
}

Status SameCpu::move_to(std::uint32_t cpu) {
    if (cpu >= kMaxCpus) {
        return fail(ErrorKind::kBoundExceeded, "a CPU number out of bounds");
    }
    if (!pinned_) {
        kept_ = {};
        ++system_calls_;
        if (syscall(SYS_sched_getaffinity, 0, sizeof(kept_), kept_.data()) < 0) {
            kept_.fill(~0UL);  // refused (seccomp)
        }
    }
    CpuMask wanted{};
    wanted[cpu / kWordBits] = 1UL << cpu % kWordBits;
    ++system_calls_;
    if (syscall(SYS_sched_setaffinity, 0, sizeof(wanted), wanted.data()) != 0) {
        return fail(ErrorKind::kRefused, "move the sampler to a CPU");
    }
    pinned_ = true;
    return {};
}

void SameCpu::release() {
    if (!pinned_) {
        return;
    }
    pinned_ = false;
    ++system_calls_;
    if (syscall(SYS_sched_setaffinity, 0, sizeof(kept_), kept_.data()) == 0) {
        return;
    }
    // Offline by now, or taken from this process (cpuset).
    CpuMask all;
    all.fill(~0UL);
    ++system_calls_;
    syscall(SYS_sched_setaffinity, 0, sizeof(all), all.data());
}

}  // namespace echion
