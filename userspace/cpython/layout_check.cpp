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

Status LayoutCheck::look_at_thread(MemoryReader& reader, const RuntimeView& view,
                                   const ListedState& listed) {
    Address frame = listed.head.frame;
    if (listed.head.cframe) {
        const auto current =
            reader.read_pointer(listed.head.cframe + at(view.layout->cframe.current_frame));
        if (!current) {
            return contradicted("a thread's newest frame cannot be read");
        }
        frame = *current;
    }
    batch_.reset();
    pages_[0].clear();
    FrameWalker walker(*view.layout, reader, batch_);
    const Walk walk = walker.walk(frame, pages_[0], 1, {frames_.data(), frames_.capacity()});
    if (walk.broken) {
        return contradicted("a thread's frames do not lead to a root");
    }
    if (walk.count == 0) {
        return fail(ErrorKind::kNotReady, "no thread runs Python code");
    }
    for (std::size_t i = 0; i < walk.count; ++i) {
        if (auto status = look_at_code(reader, view, frames_[i].code); !status) {
            return status;
        }
    }
    // A thread may stand so for long: in a __del__() that runs as its last function returns.
    return walk.ends_midway || walk.ends_at_generator
               ? fail(ErrorKind::kNotReady, "a thread stands between two frames")
               : Status();
}

Status LayoutCheck::look(MemoryReader& reader, const RuntimeView& view) {
    // At Python's end threads go, and their states stay.
    const auto finalizing = reader.read_pointer(view.runtime + at(view.layout->runtime.finalizing));
    if (auto status = check_ready(reader, view); !status || !finalizing || *finalizing) {
        return fail(ErrorKind::kNotReady, "Python has not started, or is ending");
    }
    const auto count = read_interpreters(reader, view, interpreters_);
    if (!count) {
        return tl::unexpected(count.error());
    }
    const auto main =
        reader.read_pointer(view.runtime + at(view.layout->runtime.interpreters_main));
    const std::span<const InterpreterHead> found_all(interpreters_.data(), *count);
    const auto found = std::find_if(found_all.begin(), found_all.end(), [&](const auto& one) {
        return main && one.interpreter == *main;
    });
    if (found == found_all.end() || found->id != 0) {
        return contradicted("the main interpreter is not in the list of interpreters");
    }
    const auto gil = look_at_gil(reader, view, found->gil);
    if (!gil) {
        return tl::unexpected(gil.error());
    }
    const Status outcome = look_at_threads(reader, view, *found, *gil);
    if (outcome || outcome.error().kind != ErrorKind::kInvalid) {
        return outcome;
    }
    const auto now = look_at_gil(reader, view, found->gil);
    return now && *now == *gil ? outcome : fail(ErrorKind::kTorn, outcome.error().what);
}

Status LayoutCheck::look_at_threads(MemoryReader& reader, const RuntimeView& view,
                                    const InterpreterHead& interpreter, const GilState& gil) {
    const auto first = read_threads_head(reader, view, interpreter.interpreter);
    if (!first) {
        return contradicted("the list of threads cannot be read");
    }
    const ThreadList list = read_thread_list(reader, view, interpreter.interpreter, *first,
                                             {listed_.data(), listed_.capacity()});
    if (list.end == ListEnd::kTorn) {
        return contradicted("the list of threads does not lead from one to the next");
    }
    const Address holder = gil.locked > 0 ? gil.holder() : Address();
    Status outcome = fail(ErrorKind::kNotReady, "no thread runs Python code");
    for (std::size_t i = 0; i < list.count; ++i) {
        Status thread = look_at_thread(reader, view, listed_[i]);
        if (thread) {
            return {};
        }
        if (thread.error().kind == ErrorKind::kInvalid && holder == listed_[i].state) {
            thread = fail(ErrorKind::kTorn, thread.error().what);
        }
        if (thread.error().kind == ErrorKind::kInvalid ||
            outcome.error().kind == ErrorKind::kNotReady) {
            outcome = thread;
        }
    }
    return outcome;
}

bool LayoutCheck::is_refuted(std::int64_t program_cpu_ns) const {
    return contradicted_at_rest_ >= kLooks ||
           (contradicted_ >= kLooks && monotonic_ns() - since_ns_ >= kLeastNs &&
            program_cpu_ns - since_cpu_ns_ >= kLeastCpuNs);
}

LayoutVerdict LayoutCheck::check(MemoryReader& reader, const RuntimeView& view,
                                 FunctionRef<std::int64_t()> program_cpu_ns) {
    for (int looks = 0; looks < kLooks; ++looks) {
        if (looks > 0) {
            const timespec moment = make_timespec(kBetweenLooksNs);
            clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, nullptr);
        }
        const Status seen = look(reader, view);
        if (seen || seen.error().kind == ErrorKind::kNotReady) {
            contradicted_ = contradicted_at_rest_ = 0;
            return seen ? LayoutVerdict::kTrue : LayoutVerdict::kUntold;
        }
        contradiction_ = seen.error().what;
        contradicted_at_rest_ =
            seen.error().kind == ErrorKind::kTorn ? 0 : contradicted_at_rest_ + 1;
        if (contradicted_++ == 0) {
            since_ns_ = monotonic_ns();
            since_cpu_ns_ = program_cpu_ns();
        }
    }
    return is_refuted(program_cpu_ns()) ? LayoutVerdict::kRefuted : LayoutVerdict::kDoubted;
}

}  // namespace echion::cpython
