#pragma once

#include <optional>
#include <string>
#include <vector>

#include "inject/arch.h"
#include "inject/map_lookup.h"
#include "inject/target_code.h"
#include "inject/unwinder.h"
#include "memory/reader.h"

namespace echion::inject {

/// Whether a thread may be borrowed where it is.
struct SafePointVerdict {
    bool is_safe = false;
    std::string doing;  ///< what it is doing, for messages: "in malloc()", "waiting (futex)"
    /// Those in force when the handlers were called that the thread may be in.
    std::vector<arch::AlternateStack> alternate_stacks;
};

/// Judges where a stopped thread is. The borrowed thread makes a thread through the C library, so
/// it must not be inside the allocator, the dynamic loader, or another function that holds a lock
/// of the C library or has its data half changed.
///
/// Safe are: a thread blocked in a system call that waits for the outside world, whose callers up
/// to the first frame of program code are none of those; and a thread interrupted in program code.
/// A thread in a signal handler is judged by what the handler interrupted, too. Whatever cannot be
/// followed counts as unsafe, and so does code that lies in no file, by a map read at that moment.
class SafePoint {
  public:
    /// All outlive the judge.
    SafePoint(MemoryReader& reader, const TargetCode& code, Unwinder& unwinder, MapLookup& map)
        : reader_(reader), code_(code), unwinder_(unwinder), map_(map) {}

    /// `rseq_area`: the thread's rseq(2) area or null. The thread is stopped.
    SafePointVerdict judge(const arch::Registers& registers, Address rseq_area);

    /// Whether a thread that is inside glibc's pthread_create() may give it up: it waits there for
    /// the lock of the threads' stacks, before the new thread is in any list, and holds no lock
    /// itself (see docs/attaching.md). `caller`: the code that called it. The thread is stopped.
    bool may_give_up_call(const arch::Registers& registers, const ElfRange& caller);

  private:
    bool is_in_restartable_sequence(Address instruction, Address rseq_area);
    bool is_lock_of_libc(Address futex) const;
    std::optional<std::vector<arch::AlternateStack>> find_signal_frames(Address stack_pointer);
    bool is_program_code(Address instruction);
    SafePointVerdict judge_frames(const arch::Registers& registers, bool is_waiting,
                                  bool look_for_signal);
    std::string describe(Address instruction) const;

    MemoryReader& reader_;
    const TargetCode& code_;
    Unwinder& unwinder_;
    MapLookup& map_;
};

}  // namespace echion::inject
