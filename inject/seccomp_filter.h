#pragma once

#include <linux/filter.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"

/// What a seccomp filter would do to a system call that has not been made yet: classic BPF programs
/// as seccomp(2) takes them, run on a call of which not every argument is known. Pure.
namespace echion::inject {

/// One program, in the order and coding of seccomp(2).
using SeccompFilter = std::vector<sock_filter>;

/// The kernel takes no longer program (BPF_MAXINSNS), and no more instructions of all programs of a
/// thread together (kernel/seccomp.c, MAX_INSNS_PER_PATH).
constexpr std::size_t kMaxFilterInstructions = 4096;
constexpr std::size_t kMaxThreadInstructions = 32768;

/// A 32-bit word of which the value may be unknown.
struct FilterWord {
    std::uint32_t value = 0;  ///< 0 when unknown
    bool is_known = false;

    bool operator==(const FilterWord&) const = default;
};

/// A call's argument. An `int` is known in its lower half only: what is above depends on who calls.
struct CallArgument {
    FilterWord low;
    FilterWord high;

    static constexpr CallArgument any() { return {}; }
    static constexpr CallArgument word(std::uint64_t value) {
        return {{static_cast<std::uint32_t>(value), true},
                {static_cast<std::uint32_t>(value >> 32), true}};
    }
    static constexpr CallArgument integer(std::int64_t value) {
        return {{static_cast<std::uint32_t>(value), true}, {}};
    }
};

/// A system call as a filter sees it (struct seccomp_data); where it is made from is not known.
struct FilteredCall {
    std::uint32_t number = 0;
    std::uint32_t architecture = 0;  ///< AUDIT_ARCH_…
    std::array<CallArgument, 6> arguments{};
};

/// The return values (SECCOMP_RET_…) at both ends of what may come out. The same, when nothing
/// hinges on what is not known.
struct FilterOutcome {
    std::uint32_t worst = 0;
    std::uint32_t best = 0;
};

/// Whether the first return value takes precedence over the second (the more restrictive action, as
/// the kernel orders them). Among errors, ENOSYS ranks last: callers take it for an older kernel.
bool is_more_restrictive(std::uint32_t value, std::uint32_t than);

/// Runs all filters of a thread on a call. Each instruction that is executed, on any path, takes
/// one off `steps`; kBoundExceeded when none are left. kInvalid for a program that the kernel would
/// not have taken: no return at its end, a jump or load out of bounds, an unknown instruction.
Result<FilterOutcome> evaluate_filters(std::span<const SeccompFilter> filters,
                                       const FilteredCall& call, std::size_t& steps);

}  // namespace echion::inject
