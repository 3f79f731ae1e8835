#include "cpython/layout_check.h"

#include <time.h>

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "cpython/objects.h"

namespace echion::cpython {
namespace {

constexpr std::int64_t kBetweenLooksNs = 100'000;
constexpr std::size_t kMostNameBytes = 256;

tl::unexpected<Error> contradicted(const char* what) { return fail(ErrorKind::kInvalid, what); }

Status look_at_code(MemoryReader& reader, const RuntimeView& view, Address code) {
    const CodeLayout& fields = view.layout->code;
    ObjectReader objects(reader, *view.layout);
    const auto type = objects.read_type_of(code);
    if (!type || (view.code_type && *type != view.code_type)) {
        return contradicted("a frame's code object is none");
    }
    std::array<char, kMostNameBytes> text;
    for (const Offset field : {fields.name, fields.filename, fields.qualname}) {
        if (!has(field)) {
            continue;
        }
        const auto object = reader.read_pointer(code + at(field));
        if (!object || !objects.read_unicode(*object, text)) {
            return contradicted("a code object's name is no str");
        }
    }
    std::array<std::byte, 1> table;
    const auto lines = reader.read_pointer(code + at(fields.linetable));
    if (!lines || !objects.read_bytes(*lines, table)) {
        return contradicted("a code object's line table is no bytes");
    }
    return {};
}

Result<GilState> look_at_gil(MemoryReader& reader, const RuntimeView& view, Address gil) {
    const auto state = read_gil(reader, view, gil);
    if (!state || state->locked < -1 || state->locked > 1 ||
        !state->last_holder.is_aligned(sizeof(void*))) {
        return contradicted("the GIL is in no state that there is");
    }
    return *state;
}

}  // namespace

Result<LayoutCheck> LayoutCheck::make() {
    auto batch = PageBatch::make(kBatchBytes);
    auto pages = FixedArray<PageSet>::make(1);
    auto frames = FixedArray<RawFrame>::make(kFrames);
    auto listed = FixedArray<ListedState>::make(kThreads);
    if (!batch || !pages || !frames || !listed) {
        return fail(ErrorKind::kNoSpace, "reserve memory to check the layout");
    }
    LayoutCheck check;
    check.batch_ = std::move(*batch);
    check.pages_ = std::move(*pages);
    check.frames_ = std::move(*frames);
    check.listed_ = std::move(*listed);
    return check;
}

LayoutCheck::Seen LayoutCheck::contradict(Seen by, const char* what) {
    contradiction_ = what;
    return by;
}

Result<Address> LayoutCheck::read_frame(MemoryReader& reader, const RuntimeView& view,
                                        const ThreadHead& head) {
    return head.cframe ? reader.read_pointer(head.cframe + at(view.layout->cframe.current_frame))
                       : Result<Address>(head.frame);
}

Status LayoutCheck::look_at_thread(MemoryReader& reader, const RuntimeView& view,
                                   const ThreadHead& head) {
    const auto frame = read_frame(reader, view, head);
    if (!frame) {
        return contradicted("a thread's newest frame cannot be read");
    }
    batch_.reset();
    pages_[0].clear();
    FrameWalker walker(*view.layout, reader, batch_);
    const Walk walk = walker.walk(*frame, pages_[0], 1, {frames_.data(), frames_.capacity()});
    if (walk.broken) {
        return contradicted("a thread's frames do not lead to a root");
    }
    for (std::size_t i = 0; i < walk.count; ++i) {
        if (auto status = look_at_code(reader, view, frames_[i].code); !status) {
            return status;
        }
    }
    // A thread may stand between two frames for long: in a __del__() that runs as its last function
    // returns.
    const bool is_between = !walk.truncated && (walk.ends_midway || walk.ends_at_generator);
    return walk.count == 0 || is_between ? fail(ErrorKind::kNotReady, "no stack to judge by")
                                         : Status();
}

LayoutCheck::Seen LayoutCheck::look(MemoryReader& reader, const RuntimeView& view) {
    // At Python's end threads go, and their states stay.
    const auto finalizing = reader.read_pointer(view.runtime + at(view.layout->runtime.finalizing));
    if (!check_ready(reader, view) || !finalizing || *finalizing) {
        return Seen::kUntold;
    }
    const auto count = read_interpreters(reader, view, interpreters_);
    if (!count) {
        return count.error().kind == ErrorKind::kBoundExceeded
                   ? Seen::kUntold
                   : contradict(Seen::kBadList, count.error().what);
    }
    const auto main =
        reader.read_pointer(view.runtime + at(view.layout->runtime.interpreters_main));
    const std::span<const InterpreterHead> found_all(interpreters_.data(), *count);
    const auto found = std::find_if(found_all.begin(), found_all.end(), [&](const auto& one) {
        return main && one.interpreter == *main;
    });
    if (found == found_all.end() || found->id != 0) {
        return contradict(Seen::kBadList,
                          "the main interpreter is not in the list of interpreters");
    }
    const auto gil = look_at_gil(reader, view, found->gil);
    if (!gil) {
        return contradict(Seen::kBadList, gil.error().what);
    }
    const Seen seen = look_at_threads(reader, view, found->interpreter, *gil);
    if (seen != Seen::kBadAtRest) {
        return seen;
    }
    const auto now = look_at_gil(reader, view, found->gil);
    return now && *now == *gil ? seen : Seen::kBadHolder;
}

LayoutCheck::Seen LayoutCheck::look_at_threads(MemoryReader& reader, const RuntimeView& view,
                                               Address interpreter, const GilState& gil) {
    const auto first = read_threads_head(reader, view, interpreter);
    if (!first) {
        return contradict(Seen::kBadList, "the list of threads cannot be read");
    }
    const ThreadList list =
        read_thread_list(reader, view, interpreter, *first, {listed_.data(), listed_.capacity()});
    if (list.end == ListEnd::kTorn) {
        return contradict(Seen::kBadList, "the list of threads does not lead from one to the next");
    }
    const Address holder = gil.locked > 0 ? gil.holder() : Address();
    const bool is_free_threaded = view.layout->free_threaded;
    Seen seen = Seen::kUntold;
    for (std::size_t i = 0; i < list.count; ++i) {
        const Status thread = look_at_thread(reader, view, listed_[i].head);
        if (thread) {
            return Seen::kTrue;
        }
        if (thread.error().kind == ErrorKind::kNotReady) {
            continue;
        }
        if (is_free_threaded ? is_at_rest(reader, view, listed_[i]) : listed_[i].state != holder) {
            seen = contradict(Seen::kBadAtRest, thread.error().what);
        } else {
            if (!is_free_threaded || seen == Seen::kUntold) {
                note_changes(reader, view, listed_[i]);
            }
            seen = seen == Seen::kUntold ? contradict(Seen::kBadHolder, thread.error().what) : seen;
        }
    }
    return seen;
}

/// Without a GIL: whether it was in C code, with its frames in order, before they were read and is
/// now.
bool LayoutCheck::is_at_rest(MemoryReader& reader, const RuntimeView& view,
                             const ListedState& thread) {
    const auto now = read_thread_head(reader, view, thread.state);
    return now && !thread.head.is_attached && !now->is_attached;
}

void LayoutCheck::note_changes(MemoryReader& reader, const RuntimeView& view,
                               const ListedState& holder) {
    HolderBytes now{};
    const std::size_t half = now.size() / 2;
    (void)reader.read_bytes(holder.state, now.data(), half);
    if (const auto frame = read_frame(reader, view, holder.head)) {
        (void)reader.read_bytes(*frame, now.data() + half, half);
    }
    // Another thread that is attached is no change of the one before.
    const bool is_same_thread = !view.layout->free_threaded || watched_ == holder.state;
    changes_ += static_cast<int>(is_same_thread && now != holder_bytes_);
    watched_ = holder.state;
    holder_bytes_ = now;
}

bool LayoutCheck::is_refuted(Seen seen) const {
    if (bad_ < kLooks) {
        return false;
    }
    const bool is_long = monotonic_ns() - since_ns_ >= kLeastNs;
    return bad_at_rest_ >= kLooks || (seen == Seen::kBadList && is_long) ||
           (changes_ >= kLeastChanges && is_long);
}

LayoutVerdict LayoutCheck::check(MemoryReader& reader, const RuntimeView& view) {
    const int most = bad_ < kLooks ? kLooks : kLaterLooks;
    Seen seen = Seen::kUntold;
    for (int looks = 0; looks < most; ++looks) {
        if (looks > 0) {
            const timespec moment = make_timespec(kBetweenLooksNs);
            clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, nullptr);
        }
        seen = look(reader, view);
        if (seen == Seen::kTrue || seen == Seen::kUntold) {
            return seen == Seen::kTrue ? LayoutVerdict::kTrue : LayoutVerdict::kUntold;
        }
        since_ns_ = bad_ == 0 ? monotonic_ns() : since_ns_;
        bad_ = std::min(bad_ + 1, kLooks);
        bad_at_rest_ = seen == Seen::kBadAtRest ? std::min(bad_at_rest_ + 1, kLooks) : 0;
    }
    return is_refuted(seen) ? LayoutVerdict::kRefuted : LayoutVerdict::kDoubted;
}

}  // namespace echion::cpython
