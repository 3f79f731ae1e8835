#pragma once

#include <cstdint>

namespace echion {

/// The address of a restartable sequence (struct rseq_cs, rseq(2)) that no thread is ever in; 0
/// where this machine has none.
///
/// Kernel, kernel/rseq.c: when a thread that was preempted, migrated or signalled returns to user
/// code outside the section that its rseq_cs names, the kernel clears rseq_cs. So this one makes a
/// mark that only an interruption removes: a test for preemption without a system call.
std::uintptr_t preemption_mark();

}  // namespace echion
