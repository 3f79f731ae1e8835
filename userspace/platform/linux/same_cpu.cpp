#include "platform/same_cpu.h"

#include <dlfcn.h>
#include <linux/rseq.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstddef>

#if defined(__x86_64__) || defined(__i386__)
#define ECHION_RSEQ_MARK 1
// What must stand before an abort handler, as registered by glibc (sysdeps/unix/sysv/linux/x86,
// bits/rseq.h: RSEQ_SIG). The handler and the two bytes behind it are never run: the critical
// section that they describe is one that no thread is ever in.
asm(".pushsection .text\n"
    ".balign 16\n"
    ".long 0x53053053\n"
    ".globl echion_rseq_abort\n"
    ".hidden echion_rseq_abort\n"
    ".type echion_rseq_abort, @function\n"
    "echion_rseq_abort: ud2\n"
    ".globl echion_rseq_section\n"
    ".hidden echion_rseq_section\n"
    "echion_rseq_section: ud2\n"
    ".popsection\n");
extern "C" const char echion_rseq_abort[] __attribute__((visibility("hidden")));
extern "C" const char echion_rseq_section[] __attribute__((visibility("hidden")));
#endif

namespace echion {
namespace {

// Refused (seccomp): then nothing is proved.
constexpr std::int64_t kUnknownSwitches = -1;

#ifdef ECHION_RSEQ_MARK
// Kernel, kernel/rseq.c: when a thread that was preempted, migrated or signalled returns to user
// code outside the section that its rseq_cs names, the kernel clears rseq_cs. So a section that
// nobody is ever in makes a mark that only an interruption removes: a test for preemption without a
// system call.
alignas(32) rseq_cs mark_section{};
#endif

}  // namespace

std::intptr_t SameCpu::find_rseq_offset() {
    // The two symbols came with glibc 2.35; elsewhere there is nothing to look for.
    const auto* offset = static_cast<const std::ptrdiff_t*>(dlsym(RTLD_DEFAULT, "__rseq_offset"));
    const auto* size = static_cast<const unsigned*>(dlsym(RTLD_DEFAULT, "__rseq_size"));
    // __rseq_offset counts from the thread pointer, which pthread_t is on x86 and not everywhere.
    const bool is_usable = offset != nullptr && size != nullptr && *size != 0 &&
                           reinterpret_cast<std::uintptr_t>(pthread_self()) ==
                               reinterpret_cast<std::uintptr_t>(__builtin_thread_pointer());
    return is_usable ? *offset : 0;
}

void SameCpu::open(std::intptr_t rseq_offset) {
    if (rseq_offset == 0) {
        return;
    }
    auto* area = reinterpret_cast<rseq*>(reinterpret_cast<std::uintptr_t>(pthread_self()) +
                                         static_cast<std::uintptr_t>(rseq_offset));
    if (static_cast<std::int32_t>(area->cpu_id) < 0) {
        return;  // not registered: an old kernel, or glibc.pthread.rseq=0
    }
    rseq_offset_ = rseq_offset;
    own_rseq_ = area;
#ifdef ECHION_RSEQ_MARK
    mark_section.start_ip = reinterpret_cast<std::uintptr_t>(echion_rseq_section);
    mark_section.post_commit_offset = 1;
    mark_section.abort_ip = reinterpret_cast<std::uintptr_t>(echion_rseq_abort);
    can_mark_ = true;
#endif
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
#ifdef ECHION_RSEQ_MARK
    if (can_mark_) {
        auto* area = static_cast<volatile rseq*>(own_rseq_);
        area->rseq_cs = reinterpret_cast<std::uintptr_t>(&mark_section);
        asm volatile("" ::: "memory");
        return;
    }
#endif
    armed_switches_ = switches();
}

bool SameCpu::undisturbed() {
    asm volatile("" ::: "memory");
#ifdef ECHION_RSEQ_MARK
    if (can_mark_) {
        return static_cast<volatile rseq*>(own_rseq_)->rseq_cs != 0;
    }
#endif
    return armed_switches_ != kUnknownSwitches && switches() == armed_switches_;
}

Address SameCpu::cpu_number_address(std::uintptr_t thread_id) const {
    return Address(thread_id + static_cast<std::uintptr_t>(rseq_offset_) + offsetof(rseq, cpu_id));
}

std::uint32_t SameCpu::own_cpu() const {
    if (own_rseq_ != nullptr) {
        return static_cast<const volatile rseq*>(own_rseq_)->cpu_id;
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
