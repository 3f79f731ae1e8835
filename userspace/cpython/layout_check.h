#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/error.h"
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
    /// Nothing contradicts the row, and nothing proves it: Python has not started, or is ending; no
    /// thread runs Python code; those that do stand between two frames.
    kUntold,
    /// Something contradicts the row, and may be in the middle of a change.
    kDoubted,
    kRefuted,
};

/// What is said of rows that are refuted, and doubted.
inline constexpr const char* kOtherLayout = "a pre-release, or a build that was changed?";
inline constexpr const char* kChangingLayout =
    "that may be a change that goes on for long, where it gets no CPU; try again";

/// Whether a version's row is true of a live process. A point release or a distribution's patch may
/// have moved a field; what is read by such a row is wrong, and does not always look so.
///
/// It is true if the main interpreter is in the list of interpreters, by the number 0; its GIL is
/// in a state that there is; its list of threads leads from its first to its last and back; and a
/// thread's chain of frames leads to the root, over code objects with names, files and line tables.
/// It cannot tell a field from another one that holds such a value, too: a list that ends early, an
/// f_lasti (3.8 to 3.10).
///
/// A row that has been contradicted at kLooks looks is refuted, if that cannot be a change that
/// goes on:
///   the frames of a thread without the GIL   do not change, so at once
///   those of the thread that has it          if they change meanwhile, for kLeastNs: a thread that
///                                            gets no CPU can stand in the middle of a change
///   lists, the GIL                           for kLeastNs: others hold other locks, and not for so
///                                            long
/// In a free-threaded build "has the GIL" is "is attached"; of those the first in the list is
/// watched for changes. That the GIL was not given away during a look is told by its fields,
/// between which a thread can drop it and take it anew: not at each of so many looks.
///
/// Memory is taken by make(). One thread at a time.
class LayoutCheck {
  public:
    static Result<LayoutCheck> make();

    /// Looks until that tells something else than a contradiction: kLooks times at first, 0.1 ms
    /// apart, and later kLaterLooks times. To be called again while the verdict is kUntold or
    /// kDoubted.
    LayoutVerdict check(MemoryReader& reader, const RuntimeView& view);
    /// What contradicts the row, of kDoubted and kRefuted.
    [[nodiscard]] const char* contradiction() const { return contradiction_; }

  private:
    static constexpr int kLooks = 100;
    static constexpr int kLaterLooks = 5;
    static constexpr std::int64_t kLeastNs = 200'000'000;
    static constexpr int kLeastChanges = 10;
    static constexpr std::size_t kThreads = 64;  // that are looked at
    static constexpr std::size_t kFrames = 64;   // of each
    static constexpr std::size_t kBatchBytes = std::size_t{1} << 20;

    enum class Seen : std::uint8_t {
        kTrue,
        kUntold,
        // What contradicts the row: the frames of a thread that does not have the GIL; of one that
        // has it, or may have taken it meanwhile; something else.
        kBadAtRest,
        kBadHolder,
        kBadList,
    };
    using HolderBytes = std::array<std::byte, 512>;

    Seen look(MemoryReader& reader, const RuntimeView& view);
    Seen look_at_threads(MemoryReader& reader, const RuntimeView& view, Address interpreter,
                         const GilState& gil);
    /// kNotReady where the thread has no stack by which the row could be judged.
    Status look_at_thread(MemoryReader& reader, const RuntimeView& view, const ThreadHead& head);
    static Result<Address> read_frame(MemoryReader& reader, const RuntimeView& view,
                                      const ThreadHead& head);
    Seen contradict(Seen by, const char* what);
    static bool is_at_rest(MemoryReader& reader, const RuntimeView& view,
                           const ListedState& thread);
    void note_changes(MemoryReader& reader, const RuntimeView& view, const ListedState& holder);
    [[nodiscard]] bool is_refuted(Seen seen) const;

    PageBatch batch_;
    FixedArray<PageSet> pages_;  // one
    FixedArray<RawFrame> frames_;
    FixedArray<ListedState> listed_;
    std::array<InterpreterHead, kMaxInterpreters> interpreters_;
    const char* contradiction_ = "";
    int bad_ = 0;                 ///< looks that were contradicted, up to kLooks
    int bad_at_rest_ = 0;         ///< the last ones in a row that were so by kBadAtRest, likewise
    int changes_ = 0;             ///< how often `holder_bytes_` changed
    std::int64_t since_ns_ = 0;   ///< the first contradiction: CLOCK_MONOTONIC
    Address watched_;             ///< the state that note_changes() looked at last
    HolderBytes holder_bytes_{};  ///< of the GIL holder's state and newest frame
};

}  // namespace echion::cpython
