#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "inject/seccomp_filter.h"

/// Every system call that attaching and sampling make in the target, and what a thread's seccomp
/// filters say to them. A test attaches to a program whose filter kills on all that is not in the
/// table, so that it stays complete.
namespace echion::inject {

/// What follows when the call fails with an errno (SECCOMP_RET_ERRNO).
enum class CallNeed : std::uint8_t {
    kRequired,  ///< There is no attaching or sampling without it.
    kOptional,  ///< Who makes it does without, or says what is missing.
    kVital,     ///< The C library ends the program.
};

enum class CallUse : std::uint8_t {
    kAlways,
    /// Only with some C libraries, on some ways through the program, or when something else fails.
    kSometimes,
    // Those that hinge on what is known of the process: CallFacts.
    kByRseq,         ///< Never without has_rseq.
    kByClone3,       ///< makes_threads_by_clone3
    kByClone,        ///< Not makes_threads_by_clone3, or where that call is refused with ENOSYS.
    kByFstatat,      ///< has_fstat_by_fstatat
    kByFirstThread,  ///< has_to_prepare_for_threads
    kBySharedTable,  ///< shares_descriptor_table
    kByWholeStack,   ///< has_guard_advice, if maps_stacks_whole; never without that.
    kByGuardChange,  ///< Perhaps with maps_stacks_whole, never without it.
    kBySplitStack,   ///< Not maps_stacks_whole, or where that fails.
    kByPlainHeap,    ///< maps_heaps_plainly. Never without maps_stacks_whole, which is older.
};

/// What decides which calls are made in a process; see read_call_facts() in seccomp_gate.h.
struct CallFacts {
    /// The thread has an area of rseq(2), and so its C library insists on one for each new thread.
    bool has_rseq = false;
    bool makes_threads_by_clone3 = false;
    bool has_fstat_by_fstatat = false;
    /// There has been no second thread: the C library makes ready for one.
    bool has_to_prepare_for_threads = false;
    /// The helper cannot have a descriptor table of its own: see StubParameters::wants_own_table.
    bool shares_descriptor_table = false;
    /// A new thread's stack is mapped with all its rights, and its guard made by madvise(2); else
    /// it is mapped without rights, and given them but for the guard.
    bool maps_stacks_whole = false;
    /// The kernel knows that advice. Without it the C library comes to know with its first thread.
    bool has_guard_advice = false;
    /// Heaps of other threads than the first are mapped without MAP_NORESERVE.
    bool maps_heaps_plainly = false;
    /// It is none of glibc's: it may do either.
    bool has_other_c_library = false;

    bool operator==(const CallFacts&) const = default;
};

struct NeededCall {
    const char* name;
    long number;
    CallNeed need;
    CallUse use;
    std::array<CallArgument, 6> arguments{};
};

/// All of them. A call that is made with several sets of constants is there once for each.
std::span<const NeededCall> needed_calls();

/// The call after which the kernel goes on with one that a stop has interrupted, in a thread that
/// was in nanosleep(2), poll(2) or futex(2) with a time limit: the thread itself makes it.
const NeededCall& restart_call();

/// What a filter does to a call.
enum class FilterEffect : std::uint8_t {
    kAllows,
    kRefuses,  ///< The call fails with an errno, or is seen by a tracer that is not there.
    kAsks,     ///< Another process decides (SECCOMP_RET_USER_NOTIF), whenever it likes.
    kTraps,    ///< SIGSYS, which ends a program that does not expect it.
    kKills,
};
FilterEffect effect_of(std::uint32_t return_value);

/// Evaluates the filters of a thread on one call; the architecture is this program's own.
Result<FilterOutcome> evaluate_call(std::span<const SeccompFilter> filters, const NeededCall& call,
                                    std::size_t& steps);

/// Why a thread with certain filters may not be used.
struct CallObjection {
    const NeededCall* call = nullptr;  ///< null: there is no objection
    FilterEffect effect = FilterEffect::kAllows;
    int system_errno = 0;  ///< of kRefuses
    /// It will come to this. Otherwise it may: the call is not always made, or the filter looks at
    /// what cannot be known.
    bool is_certain = false;
};

/// The gravest objection to all the calls: what is certain first. Errors as evaluate_filters().
Result<CallObjection> judge_filters(std::span<const SeccompFilter> filters, const CallFacts& facts);

}  // namespace echion::inject
