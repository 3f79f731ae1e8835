#pragma once

#include <array>

#include "base/error.h"
#include "base/function_ref.h"
#include "base/mapping.h"
#include "cpython/frame_walker.h"
#include "cpython/runtime_view.h"
#include "cpython/thread_list.h"
#include "memory/page_batch.h"
#include "memory/reader.h"

namespace echion::cpython {

/// What has been seen of a row.
enum class LayoutVerdict : std::uint8_t {
    kTrue,
    /// No thread runs Python code, or those that do stand between two frames; or Python has not
    /// started, or is ending. Nothing is misread.
    kUntold,
    /// Something contradicts the row, and may be in the middle of a change.
    kDoubted,
    kRefuted,
};

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

    /// Looks until that tells something else than a contradiction, at most kLooks times, 0.1 ms
    /// apart. A row that has been contradicted at kLooks looks one after the other is refuted if
    /// who contradicts it does not have the GIL, and so can change nothing. One that is
    /// contradicted by who has it is refuted if that lasts, over several calls, while the program
    /// uses CPU time
    /// (`program_cpu_ns()`): a thread that gets no CPU can stand in the middle of a change.
    LayoutVerdict check(MemoryReader& reader, const RuntimeView& view,
                        FunctionRef<std::int64_t()> program_cpu_ns);
    /// What contradicts the row, of kDoubted and kRefuted.
    [[nodiscard]] const char* contradiction() const { return contradiction_; }

  private:
    static constexpr int kLooks = 100;
    static constexpr std::int64_t kLeastNs = 200'000'000;
    static constexpr std::int64_t kLeastCpuNs = 50'000'000;
    static constexpr std::size_t kThreads = 64;  // that are looked at
    static constexpr std::size_t kFrames = 64;   // of each
    static constexpr std::size_t kBatchBytes = std::size_t{1} << 20;

    /// Once. kNotReady: kUntold; kInvalid: contradicted by who can change nothing; kTorn: by who
    /// can be in the middle of a change.
    Status look(MemoryReader& reader, const RuntimeView& view);
    Status look_at_threads(MemoryReader& reader, const RuntimeView& view,
                           const InterpreterHead& interpreter, const GilState& gil);
    Status look_at_thread(MemoryReader& reader, const RuntimeView& view, const ListedState& listed);
    [[nodiscard]] bool is_refuted(std::int64_t program_cpu_ns) const;

    PageBatch batch_;
    FixedArray<PageSet> pages_;  // one
    FixedArray<RawFrame> frames_;
    FixedArray<ListedState> listed_;
    std::array<InterpreterHead, kMaxInterpreters> interpreters_;
    const char* contradiction_ = "";
    // Looks in a row, up to the last one: that were contradicted, and by who can change nothing.
    int contradicted_ = 0;
    int contradicted_at_rest_ = 0;
    std::int64_t since_ns_ = 0;      ///< the first of them: CLOCK_MONOTONIC
    std::int64_t since_cpu_ns_ = 0;  ///< the program's CPU time then
};

}  // namespace echion::cpython
