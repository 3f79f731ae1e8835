#pragma once

#include <array>

#include "base/error.h"
#include "base/mapping.h"
#include "cpython/frame_walker.h"
#include "cpython/runtime_view.h"
#include "cpython/thread_list.h"
#include "memory/page_batch.h"
#include "memory/reader.h"

namespace echion::cpython {

/// Whether a version's row is true of a live process. A point release or a distribution's patch may
/// have moved a field; what is read by such a row is wrong, and does not always look so.
///
/// It is true if the main interpreter is in the list of interpreters, by the number 0; its GIL is
/// in a state that there is; its list of threads leads from its first to its last and back; and a
/// thread's chain of frames leads to the root, over code objects with names, files and line tables.
/// It cannot tell a field from another one that holds such a value, too: a list that ends early, an
/// f_lasti (3.8 to 3.10).
///
/// Memory is taken by make(). One thread at a time.
class LayoutCheck {
  public:
    static Result<LayoutCheck> make();

    /// Looks once. kNotReady where no thread runs Python code, so that there is nothing to be
    /// misread; kTorn where the threads that do stand between two frames, or only the GIL's holder
    /// contradicts the row, which can be changing its frames; kInvalid where something else does:
    /// that, or the program that runs on meanwhile.
    Status look(MemoryReader& reader, const RuntimeView& view);
    /// The same, but kInvalid only if it was so kLooks times, 0.1 ms apart: so long as the program
    /// is not stopped, it is not the reason then.
    Status check(MemoryReader& reader, const RuntimeView& view);

  private:
    static constexpr int kLooks = 100;
    static constexpr std::size_t kThreads = 64;  // that are looked at
    static constexpr std::size_t kFrames = 64;   // of each
    static constexpr std::size_t kBatchBytes = std::size_t{1} << 20;

    Status look_at_thread(MemoryReader& reader, const RuntimeView& view, const ListedState& listed);

    PageBatch batch_;
    FixedArray<PageSet> pages_;  // one
    FixedArray<RawFrame> frames_;
    FixedArray<ListedState> listed_;
    std::array<InterpreterHead, kMaxInterpreters> interpreters_;
};

}  // namespace echion::cpython
