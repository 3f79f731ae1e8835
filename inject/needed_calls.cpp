#include "inject/needed_calls.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include <cerrno>

#include "inject/arch.h"
#include "platform/linux/close_range.h"
#include "platform/linux/guard_pages.h"

namespace echion::inject {
namespace {

// For all calls together: the thread stands still meanwhile. A container runtime's filter takes
// some ten thousands; the largest that the kernel takes, if it decides by number, fits in.
constexpr std::size_t kMaxSteps = 2'000'000;

constexpr CallArgument kAny = CallArgument::any();
constexpr CallArgument kZero = CallArgument::word(0);
constexpr CallArgument kSignalSetBytes = CallArgument::word(8);

constexpr CallArgument integer(std::int64_t value) { return CallArgument::integer(value); }
constexpr CallArgument word(std::uint64_t value) { return CallArgument::word(value); }

constexpr NeededCall required(const char* name, long number, std::array<CallArgument, 6> arguments,
                              CallUse use = CallUse::kAlways) {
    return {name, number, CallNeed::kRequired, use, arguments};
}
constexpr NeededCall vital(const char* name, long number, std::array<CallArgument, 6> arguments,
                           CallUse use = CallUse::kAlways) {
    return {name, number, CallNeed::kVital, use, arguments};
}

constexpr NeededCall optional(const char* name, long number, std::array<CallArgument, 6> arguments,
                              CallUse use = CallUse::kAlways) {
    return {name, number, CallNeed::kOptional, use, arguments};
}

constexpr CallUse kSometimes = CallUse::kSometimes;

// From Linux 6.3 on; older headers lack it.
constexpr int kMemfdNoExecSeal = 8;

#define CALL(name) #name, SYS_##name

constexpr NeededCall kCalls[] = {
    // Memory: the region (stub.h), threads' stacks, libraries, the C library's arenas, the ring,
    // the sampler's tables, the kernel's maps.
    required(CALL(mmap), {kAny, kAny, integer(PROT_READ | PROT_EXEC),
                          integer(MAP_PRIVATE | MAP_ANONYMOUS), integer(-1), kZero}),
    // A thread's stack (glibc nptl/allocatestack.c).
    required(CALL(mmap),
             {kAny, kAny, integer(PROT_NONE), integer(MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK),
              integer(-1), kZero},
             CallUse::kBySplitStack),
    required(CALL(mmap),
             {kAny, kAny, integer(PROT_READ | PROT_WRITE),
              integer(MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK), integer(-1), kZero},
             CallUse::kByWholeStack),
    optional(CALL(madvise), {kAny, kAny, integer(MADV_GUARD_INSTALL), kAny, kAny, kAny},
             CallUse::kByWholeStack),
    optional(CALL(madvise), {kAny, kAny, integer(MADV_GUARD_REMOVE), kAny, kAny, kAny},
             CallUse::kByGuardChange),
    // A thread's heap (glibc malloc/arena.c); what the agent reserves.
    optional(
        CALL(mmap),
        {kAny, kAny, integer(PROT_NONE), integer(MAP_PRIVATE | MAP_ANONYMOUS), integer(-1), kZero},
        CallUse::kByPlainHeap),
    required(CALL(mmap),
             {kAny, kAny, integer(PROT_NONE), integer(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE),
              integer(-1), kZero}),
    required(CALL(mmap),
             {kAny, kAny, integer(PROT_READ), integer(MAP_PRIVATE | MAP_DENYWRITE), kAny, kAny}),
    required(CALL(mmap), {kAny, kAny, integer(PROT_READ | PROT_EXEC),
                          integer(MAP_PRIVATE | MAP_FIXED | MAP_DENYWRITE), kAny, kAny}),
    required(CALL(mmap), {kAny, kAny, integer(PROT_READ),
                          integer(MAP_PRIVATE | MAP_FIXED | MAP_DENYWRITE), kAny, kAny}),
    required(CALL(mmap), {kAny, kAny, integer(PROT_READ | PROT_WRITE),
                          integer(MAP_PRIVATE | MAP_FIXED | MAP_DENYWRITE), kAny, kAny}),
    required(CALL(mmap),
             {kAny, kAny, integer(PROT_READ | PROT_WRITE),
              integer(MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS), integer(-1), kZero},
             kSometimes),
    required(CALL(mmap),
             {kAny, kAny, integer(PROT_READ | PROT_WRITE), integer(MAP_PRIVATE | MAP_ANONYMOUS),
              integer(-1), kZero},
             kSometimes),
    required(CALL(mmap),
             {kAny, kAny, integer(PROT_READ | PROT_WRITE),
              integer(MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE), integer(-1), kZero}),
    required(CALL(mmap),
             {kAny, kAny, integer(PROT_READ | PROT_WRITE), integer(MAP_SHARED), kAny, kAny}),
    required(CALL(mmap), {kAny, kAny, integer(PROT_READ | PROT_WRITE),
                          integer(MAP_SHARED | MAP_FIXED), kAny, kAny}),
    optional(CALL(mmap), {kAny, kAny, integer(PROT_READ), integer(MAP_SHARED), kAny, kAny}),
    required(CALL(mprotect), {kAny, kAny, integer(PROT_READ | PROT_WRITE), kAny, kAny, kAny}),
    required(CALL(mprotect), {kAny, kAny, integer(PROT_READ), kAny, kAny, kAny}),
    optional(CALL(mprotect), {kAny, kAny, integer(PROT_NONE), kAny, kAny, kAny}, kSometimes),
    // Of the stacks that glibc no longer keeps: it aborts (nptl/nptl-stack.c).
    vital(CALL(munmap), {kAny, kAny, kAny, kAny, kAny, kAny}),
    optional(CALL(madvise), {kAny, kAny, integer(MADV_DONTNEED), kAny, kAny, kAny}),
    required(CALL(madvise), {kAny, kAny, integer(MADV_DONTFORK), kAny, kAny, kAny}),
    optional(CALL(brk), {kAny, kAny, kAny, kAny, kAny, kAny}, kSometimes),
    optional(CALL(mremap), {kAny, kAny, kAny, kAny, kAny, kAny}, kSometimes),
    optional(CALL(prlimit64), {kZero, integer(RLIMIT_AS), kZero, kAny, kAny, kAny}),
    optional(CALL(prlimit64), {kZero, integer(RLIMIT_DATA), kZero, kAny, kAny, kAny}),
    optional(CALL(prlimit64), {kZero, integer(RLIMIT_STACK), kZero, kAny, kAny, kAny}, kSometimes),
    optional(CALL(prlimit64), {kZero, integer(RLIMIT_NOFILE), kZero, kAny, kAny, kAny}, kSometimes),

    // Threads: made, begun, ended. glibc since 2.34 makes them by clone3, and by clone only where
    // that says ENOSYS (sysdeps/unix/sysv/linux/clone-internal.c); other C libraries by clone.
    required(CALL(clone3), {kAny, kAny, kAny, kAny, kAny, kAny}, CallUse::kByClone3),
    required(CALL(clone),
             {word(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                   CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID),
              kAny, kAny, kAny, kAny, kAny},
             CallUse::kByClone),
    optional(CALL(set_robust_list), {kAny, word(24), kAny, kAny, kAny, kAny}),
    // "rseq registration failed" (glibc nptl/pthread_create.c, start_thread()).
    vital(CALL(rseq), {kAny, kAny, kZero, kAny, kAny, kAny}, CallUse::kByRseq),
    optional(CALL(rt_sigprocmask), {integer(SIG_BLOCK), kAny, kAny, kSignalSetBytes, kAny, kAny}),
    optional(CALL(rt_sigprocmask), {integer(SIG_SETMASK), kAny, kAny, kSignalSetBytes, kAny, kAny}),
    optional(CALL(rt_sigprocmask), {integer(SIG_UNBLOCK), kAny, kAny, kSignalSetBytes, kAny, kAny}),
    // glibc's own signals, 32 (cancellation) and 33 (setuid), with a process's second thread.
    optional(CALL(rt_sigaction), {integer(32), kAny, kAny, kSignalSetBytes, kAny, kAny},
             kSometimes),
    optional(CALL(rt_sigaction), {integer(33), kAny, kAny, kSignalSetBytes, kAny, kAny},
             CallUse::kByFirstThread),
    // "The futex facility returned an unexpected error code" (glibc nptl/futex-internal.h).
    vital(CALL(futex), {kAny, integer(FUTEX_WAIT_PRIVATE), kAny, kAny, kAny, kAny}),
    vital(CALL(futex), {kAny, integer(FUTEX_WAKE_PRIVATE), kAny, kAny, kAny, kAny}),
    vital(CALL(futex), {kAny, integer(FUTEX_WAIT), kAny, kAny, kAny, kAny}),
    vital(CALL(futex), {kAny, integer(FUTEX_WAKE), kAny, kAny, kAny, kAny}),
    vital(CALL(futex),
          {kAny, integer(FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME), kAny, kAny, kAny, kAny}),
    vital(CALL(futex), {kAny, integer(FUTEX_WAIT_BITSET_PRIVATE | FUTEX_CLOCK_REALTIME), kAny, kAny,
                        kAny, kAny}),
    vital(CALL(futex), {kAny, integer(FUTEX_WAIT_BITSET_PRIVATE), kAny, kAny, kAny, kAny}),
    optional(CALL(futex), {kAny, integer(FUTEX_WAKE_OP_PRIVATE), kAny, kAny, kAny, kAny},
             kSometimes),
    // Again and again until it works.
    required(CALL(exit), {integer(0), kAny, kAny, kAny, kAny, kAny}),
    // The borrowed thread's way back, if its tracer dies.
    required(CALL(rt_sigreturn), {kAny, kAny, kAny, kAny, kAny, kAny}, kSometimes),

    // The helper thread.
    optional(CALL(prctl), {integer(PR_SET_NAME), kAny, kAny, kAny, kAny, kAny}),
    required(CALL(socketpair), {integer(AF_UNIX), integer(SOCK_SEQPACKET | SOCK_CLOEXEC),
                                integer(0), kAny, kAny, kAny}),
    required(CALL(memfd_create), {kAny, integer(MFD_CLOEXEC), kAny, kAny, kAny, kAny}),
    optional(CALL(memfd_create),
             {kAny, integer(MFD_CLOEXEC | kMemfdNoExecSeal), kAny, kAny, kAny, kAny}, kSometimes),
    optional(CALL(fcntl), {kAny, integer(F_DUPFD_CLOEXEC), kAny, kAny, kAny, kAny}),
    required(CALL(ppoll), {kAny, kAny, kAny, kZero, kAny, kAny}),
    required(CALL(recvfrom), {kAny, kAny, kAny, integer(MSG_DONTWAIT), kZero, kZero}),
    optional(CALL(close), {kAny, kAny, kAny, kAny, kAny, kAny}),

    // Files: the library, those of /proc that tell of threads and mappings, /proc/self/mem.
    required(CALL(openat),
             {integer(AT_FDCWD), kAny, integer(O_RDONLY | O_CLOEXEC), kAny, kAny, kAny}),
    required(CALL(openat),
             {integer(AT_FDCWD), kAny, integer(O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), kAny,
              kAny, kAny}),
    optional(CALL(openat),
             {integer(AT_FDCWD), kAny, integer(O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_DIRECTORY),
              kAny, kAny, kAny},
             kSometimes),
    required(CALL(read), {kAny, kAny, kAny, kAny, kAny, kAny}),
    required(CALL(pread64), {kAny, kAny, kAny, kAny, kAny, kAny}),
    // The loader's fstat(3): by newfstatat in glibc 2.33 to 2.38, else by fstat. The agent's: by
    // fstat.
    required(CALL(newfstatat), {kAny, kAny, kAny, integer(AT_EMPTY_PATH), kAny, kAny},
             CallUse::kByFstatat),
    required(CALL(fstat), {kAny, kAny, kAny, kAny, kAny, kAny}),
    optional(CALL(statx), {kAny, kAny, integer(AT_EMPTY_PATH), kAny, kAny, kAny}, kSometimes),
    optional(CALL(getdents64), {kAny, kAny, kAny, kAny, kAny, kAny}, kSometimes),

    // A descriptor table of the second helper's or the sampler's own, by the one call or the other.
    optional(CALL(close_range), {kAny, kAny, integer(CLOSE_RANGE_UNSHARE), kAny, kAny, kAny}),
    optional(CALL(close_range), {kAny, kAny, integer(0), kAny, kAny, kAny},
             CallUse::kBySharedTable),
    optional(CALL(unshare), {integer(CLONE_FILES), kAny, kAny, kAny, kAny, kAny}, kSometimes),

    // The sampler's channel.
    optional(CALL(sendto), {kAny, kAny, kAny, integer(MSG_DONTWAIT | MSG_NOSIGNAL), kZero, kZero}),
    optional(CALL(sendmsg), {kAny, kAny, integer(MSG_DONTWAIT | MSG_NOSIGNAL), kAny, kAny, kAny},
             kSometimes),
    required(CALL(recvmsg), {kAny, kAny, integer(MSG_CMSG_CLOEXEC), kAny, kAny, kAny}),
    optional(CALL(recvfrom), {kAny, kAny, kAny, integer(0), kZero, kZero}),
    optional(CALL(poll), {kAny, word(1), kAny, kAny, kAny, kAny}),
    optional(CALL(fcntl), {kAny, integer(F_GET_SEALS), kAny, kAny, kAny, kAny}),
    optional(CALL(fcntl), {kAny, integer(F_GETFL), kAny, kAny, kAny, kAny}),
    optional(CALL(fcntl), {kAny, integer(F_SETFL), kAny, kAny, kAny, kAny}),
    optional(CALL(fcntl), {kAny, integer(F_SETSIG), kAny, kAny, kAny, kAny}),
    optional(CALL(fcntl), {kAny, integer(F_SETOWN_EX), kAny, kAny, kAny, kAny}),

    // The sampler: who it is, memory, clocks, waiting, scheduling.
    optional(CALL(getpid), {kAny, kAny, kAny, kAny, kAny, kAny}),
    required(CALL(gettid), {kAny, kAny, kAny, kAny, kAny, kAny}),
    optional(CALL(process_vm_writev), {kAny, kAny, kAny, kAny, kAny, kZero}),
    optional(CALL(process_vm_readv), {kAny, kAny, kAny, kAny, kAny, kZero}, kSometimes),
    optional(CALL(clock_gettime), {integer(CLOCK_THREAD_CPUTIME_ID), kAny, kAny, kAny, kAny, kAny}),
    optional(CALL(clock_gettime),
             {integer(CLOCK_PROCESS_CPUTIME_ID), kAny, kAny, kAny, kAny, kAny}),
    // A thread's own clock, by its number: each thread's when it is met. The clocks of the time
    // where the vDSO has none.
    optional(CALL(clock_gettime), {kAny, kAny, kAny, kAny, kAny, kAny}),
    optional(CALL(clock_getres), {kAny, kAny, kAny, kAny, kAny, kAny}, kSometimes),
    optional(CALL(clock_nanosleep),
             {integer(CLOCK_MONOTONIC), integer(TIMER_ABSTIME), kAny, kAny, kAny, kAny}),
    optional(CALL(clock_nanosleep), {integer(CLOCK_MONOTONIC), integer(0), kAny, kAny, kAny, kAny}),
    optional(CALL(rt_sigtimedwait), {kAny, kAny, kAny, kSignalSetBytes, kAny, kAny}),
    optional(CALL(sched_getattr), {kZero, kAny, kAny, kZero, kAny, kAny}),
    optional(CALL(sched_setattr), {kZero, kAny, kZero, kAny, kAny, kAny}),
    optional(CALL(prlimit64), {kZero, integer(RLIMIT_RTTIME), kZero, kAny, kAny, kAny}),
    optional(CALL(sched_getaffinity), {kZero, kAny, kAny, kAny, kAny, kAny}),
    optional(CALL(sched_setaffinity), {kZero, kAny, kAny, kAny, kAny, kAny}),
    optional(CALL(prctl), {integer(PR_SET_TIMERSLACK), kAny, kAny, kAny, kAny, kAny}),
    optional(CALL(getrusage), {integer(RUSAGE_THREAD), kAny, kAny, kAny, kAny, kAny}, kSometimes),
    optional(CALL(getcpu), {kAny, kAny, kAny, kAny, kAny, kAny}, kSometimes),
    optional(CALL(sched_yield), {kAny, kAny, kAny, kAny, kAny, kAny}, kSometimes),

    // Stacks on SIGQUIT: the handler is looked after at all times, the rest comes on demand.
    optional(CALL(rt_sigaction), {integer(SIGQUIT), kAny, kAny, kSignalSetBytes, kAny, kAny}),
    optional(CALL(rt_sigaction), {integer(SIGINT), kAny, kAny, kSignalSetBytes, kAny, kAny},
             kSometimes),
    optional(CALL(tgkill), {kAny, kAny, integer(SIGIO), kAny, kAny, kAny}, kSometimes),
    optional(CALL(write), {integer(STDERR_FILENO), kAny, kAny, kAny, kAny, kAny}, kSometimes),
    optional(CALL(ioctl), {integer(STDERR_FILENO), integer(TCGETS), kAny, kAny, kAny, kAny},
             kSometimes),
};

constexpr NeededCall kRestart = optional(CALL(restart_syscall), {}, kSometimes);

#undef CALL

bool is_harmful(FilterEffect effect) {
    return effect == FilterEffect::kAsks || effect == FilterEffect::kTraps ||
           effect == FilterEffect::kKills;
}

int errno_of(std::uint32_t value) {
    const bool is_errno = (value & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO;
    return is_errno ? static_cast<int>(value & SECCOMP_RET_DATA) : ENOSYS;
}

/// How often a call is made in a process of which this is known.
enum class Frequency : std::uint8_t { kNever, kPerhaps, kSurely };

Frequency find_frequency(CallUse use, const CallFacts& facts) {
    const auto surely_if = [](bool is_so) {
        return is_so ? Frequency::kSurely : Frequency::kPerhaps;
    };
    const bool is_of_memory = use == CallUse::kByWholeStack || use == CallUse::kByGuardChange ||
                              use == CallUse::kBySplitStack || use == CallUse::kByPlainHeap;
    if (facts.has_other_c_library && is_of_memory) {
        return Frequency::kPerhaps;
    }
    switch (use) {
        case CallUse::kAlways:
            return Frequency::kSurely;
        case CallUse::kByRseq:
            return facts.has_rseq ? Frequency::kSurely : Frequency::kNever;
        case CallUse::kByClone3:
            return surely_if(facts.makes_threads_by_clone3);
        case CallUse::kByClone:
            return surely_if(!facts.makes_threads_by_clone3);
        case CallUse::kByFstatat:
            return surely_if(facts.has_fstat_by_fstatat);
        case CallUse::kByFirstThread:
            return surely_if(facts.has_to_prepare_for_threads);
        case CallUse::kBySharedTable:
            return surely_if(facts.shares_descriptor_table);
        case CallUse::kByWholeStack:
            return facts.maps_stacks_whole ? surely_if(facts.has_guard_advice) : Frequency::kNever;
        case CallUse::kByGuardChange:
            return facts.maps_stacks_whole ? Frequency::kPerhaps : Frequency::kNever;
        case CallUse::kBySplitStack:
            return surely_if(!facts.maps_stacks_whole);
        case CallUse::kByPlainHeap:
            return facts.maps_stacks_whole ? surely_if(facts.maps_heaps_plainly)
                                           : Frequency::kNever;
        case CallUse::kSometimes:
            break;
    }
    return Frequency::kPerhaps;
}

/// What one call's outcome gives to object to.
CallObjection object_to(const NeededCall& call, const FilterOutcome& outcome, Frequency frequency) {
    const FilterEffect worst = effect_of(outcome.worst);
    const FilterEffect best = effect_of(outcome.best);
    const bool is_sure = frequency == Frequency::kSurely;
    if (is_harmful(worst)) {
        return {&call, worst, 0, is_harmful(best) && is_sure};
    }
    // Of a call that may not be made it is to be seen what the refusal does.
    const bool is_no_way = is_sure || call.use == CallUse::kSometimes;
    if (best == FilterEffect::kRefuses && call.need != CallNeed::kOptional && is_no_way) {
        return {&call, best, errno_of(outcome.best), is_sure};
    }
    return {};
}

/// Harm before refusals, what is certain before what may be.
int rank(const CallObjection& objection) {
    if (objection.call == nullptr) {
        return 0;
    }
    return 1 + static_cast<int>(is_harmful(objection.effect)) +
           2 * static_cast<int>(objection.is_certain);
}

}  // namespace

std::span<const NeededCall> needed_calls() { return kCalls; }
const NeededCall& restart_call() { return kRestart; }

FilterEffect effect_of(std::uint32_t return_value) {
    switch (return_value & SECCOMP_RET_ACTION_FULL) {
        case SECCOMP_RET_ALLOW:
        case SECCOMP_RET_LOG:
            return FilterEffect::kAllows;
        case SECCOMP_RET_ERRNO:
        case SECCOMP_RET_TRACE:  // without a tracer that asked for it: ENOSYS
            return FilterEffect::kRefuses;
        case SECCOMP_RET_USER_NOTIF:
            return FilterEffect::kAsks;
        case SECCOMP_RET_TRAP:
            return FilterEffect::kTraps;
        default:  // also of what the kernel does not know
            return FilterEffect::kKills;
    }
}

Result<FilterOutcome> evaluate_call(std::span<const SeccompFilter> filters, const NeededCall& call,
                                    std::size_t& steps) {
    return evaluate_filters(
        filters,
        {static_cast<std::uint32_t>(call.number), arch::kAuditArchitecture, call.arguments}, steps);
}

Result<CallObjection> judge_filters(std::span<const SeccompFilter> filters,
                                    const CallFacts& facts) {
    std::size_t steps = kMaxSteps;
    CallObjection gravest;
    CallFacts known = facts;
    for (const NeededCall& call : kCalls) {
        const auto outcome = evaluate_call(filters, call, steps);
        if (!outcome) {
            return tl::unexpected(outcome.error());
        }
        const Frequency frequency = find_frequency(call.use, known);
        const bool is_harmless = !is_harmful(effect_of(outcome->worst));
        if (call.use == CallUse::kByClone3 && is_harmless &&
            effect_of(outcome->best) == FilterEffect::kRefuses &&
            errno_of(outcome->best) == ENOSYS) {
            known.makes_threads_by_clone3 = false;  // clone comes behind it in the table
            continue;
        }
        if (frequency == Frequency::kNever) {
            continue;
        }
        const CallObjection objection = object_to(call, *outcome, frequency);
        if (rank(objection) > rank(gravest)) {
            gravest = objection;
        }
    }
    return gravest;
}

}  // namespace echion::inject
