#pragma once

#include <cstddef>
#include <memory>

#include "base/error.h"
#include "base/function_ref.h"
#include "inject/arch.h"
#include "inject/target_code.h"
#include "memory/reader.h"

namespace echion::inject {

/// One native frame of a stopped thread.
struct NativeFrame {
    Address instruction;
    /// The kernel placed this frame: the one behind it was interrupted by a signal.
    bool is_signal = false;
};

/// Unwinds stopped threads by the unwind tables in the target's own memory (.eh_frame_hdr), so that
/// no file is opened. Keeps copies of the tables between walks, and of a thread's stack for one
/// walk only.
class Unwinder {
  public:
    /// Both outlive the unwinder.
    Unwinder(MemoryReader& reader, const TargetCode& code);
    ~Unwinder();
    Unwinder(const Unwinder&) = delete;
    Unwinder& operator=(const Unwinder&) = delete;

    /// Calls `visit` for each frame, innermost first, until it returns false, the stack ends, or
    /// `max_frames` have been visited. False when the stack could not be followed that far.
    bool walk(const arch::Registers& registers, std::size_t max_frames,
              FunctionRef<bool(const NativeFrame&)> visit);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace echion::inject
