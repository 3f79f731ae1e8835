#pragma once

#include <cstddef>
#include <cstdint>
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
///
/// Both are the target's, and may be made so that following them never ends (an expression that
/// jumps to itself, a description of gigabytes): so each step and each walk has a budget, and a
/// thread of real-time priority gives that up for the time of a walk.
class Unwinder {
  public:
    /// Words that libunwind may ask for in one step. It reads a table's instructions byte by byte,
    /// a word for each; real steps take at most some hundred. Bounds what it may keep, too: 300
    /// bytes for each instruction that saves its state.
    static constexpr std::size_t kMaxStepWords = 1U << 14;
    /// In one walk: 256 frames of 500 words.
    static constexpr std::size_t kMaxWalkWords = 1U << 17;
    /// Pages copied in one walk (4 MiB): a real one takes three for each object and new frame.
    static constexpr std::size_t kMaxWalkPages = 1024;
    /// Pages of tables kept between walks (16 MiB); when there are more, all are forgotten.
    static constexpr std::size_t kMaxKeptPages = 4096;
    /// Of a walk, looked at whenever a page has been copied: pages that come from a disk. A walk
    /// that ends by it has brought them nearer for the next one.
    static constexpr std::int64_t kMaxWalkNs = 100'000'000;

    /// Both outlive the unwinder.
    Unwinder(MemoryReader& reader, const TargetCode& code);
    ~Unwinder();
    Unwinder(const Unwinder&) = delete;
    Unwinder& operator=(const Unwinder&) = delete;

    /// Calls `visit` for each frame, innermost first, until it returns false, the stack ends, or
    /// `max_frames` have been visited. False when the stack could not be followed that far, or not
    /// within the budget.
    bool walk(const arch::Registers& registers, std::size_t max_frames,
              FunctionRef<bool(const NativeFrame&)> visit);

  private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace echion::inject
