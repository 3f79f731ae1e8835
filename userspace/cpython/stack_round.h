#pragma once

#include "cpython/runtime_view.h"
#include "memory/address.h"
#include "memory/page_batch.h"
#include "memory/reader.h"

namespace echion::cpython {

/// Where a thread's stack begins, as it was copied.
struct StackHead {
    ThreadHead thread;
    Address frame;         ///< the newest, if `has_frame`
    bool is_read = false;  ///< else nothing of it is known
    /// Else the frame is to be read through `thread.cframe`: StackRound::complete().
    bool has_frame = false;
};

/// One round of reading: the stacks of threads of one GIL, between two copies of the GIL. All is
/// copied in the order in which it is asked for, by one system call where the reader can:
///
///     begin()                  the GIL
///     add() …                  threads: their states, newest frames, and the pages of their stacks
///     add_again()              a head once more, to show whether its thread has run
///     end()                    the GIL again
///     PageBatch::run()         copies it all
///     take_gil(), take() …     what came of it
///
/// Who uses it may ask the batch for more in between. Says nothing of whether the copies can be
/// trusted. One thread at a time.
class StackRound {
  public:
    /// What a round has of one thread. Zeroed memory holds none.
    struct Copies {
        PageBatch::Handle state;
        PageBatch::Handle cframe;  // what the _PyCFrame at…
        Address cframe_at;         // …leads to
    };

    StackRound(const RuntimeView& view, PageBatch& batch) : view_(view), batch_(batch) {}

    void begin(Address gil);
    /// `cframe`: thread.cframe as it was last read; null: not known, or of another version. False
    /// when the round is full, or is too full for another thread: then what of this one did not fit
    /// is not read.
    bool add(Address state, Address cframe, const PageSet& pages, Copies* copies);
    /// The head alone.
    void add_again(Address state, Address cframe, Copies* copies);
    /// False when the round is full.
    bool end();

    /// The GIL before and after. False if it was not read.
    bool take_gil(GilState* before, GilState* after) const;
    [[nodiscard]] StackHead take(const Copies& copies) const;
    /// Reads the newest frame where the round does not have it. False if it cannot be read.
    bool complete(MemoryReader& reader, StackHead* head) const;
    /// The same head, read now.
    [[nodiscard]] StackHead read(MemoryReader& reader, Address state) const;

  private:
    void add_frame(Address cframe, Copies* copies);
    PageBatch::Handle add_current();

    const RuntimeView& view_;
    PageBatch& batch_;
    Address gil_;
    PageBatch::Handle gil_before_{};
    PageBatch::Handle gil_after_{};
    PageBatch::Handle current_before_{};
    PageBatch::Handle current_after_{};
};

}  // namespace echion::cpython
