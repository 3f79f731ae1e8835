#include "sampling/kernel_snapshots.h"

#include <algorithm>
#include <utility>

namespace echion::sampling {
namespace {

constexpr std::size_t kFrames = std::size_t{1} << 16;

}  // namespace

Status KernelSnapshots::reserve() {
    auto frames = FixedArray<cpython::RawFrame>::make(kFrames);
    if (!frames) {
        return fail(ErrorKind::kNoSpace, "reserve memory for stacks");
    }
    frames_ = std::move(*frames);
    return {};
}

/// Whether the thread has no frame below this one, whose stack may be gone by now: then the answer
/// is no, unless it is known already.
bool KernelSnapshots::is_first_of_stack(const echion_frame& root) {
    if (starts_states_gone_ != threads_.states_gone()) {
        starts_states_gone_ = threads_.states_gone();
        starts_.fill({});
    }
    const Address frame(static_cast<std::uintptr_t>(root.frame));
    Address& known = starts_[frame.value() / cpython::kStackChunkBytes % starts_.size()];
    if (known != frame) {
        std::array<std::byte, cpython::kStackHeadBytes> head{};
        if (!memory_.reader.read_bytes(frame - head.size(), head.data(), head.size()) ||
            !cpython::is_stack_head(head)) {
            return false;
        }
        known = frame;
    }
    return true;
}

std::span<cpython::RawFrame> KernelSnapshots::convert(const engine::SnapshotView& snapshot) {
    const std::span<cpython::RawFrame> out(frames_.data() + used_, frames_.capacity() - used_);
    std::size_t count = 0;
    ++count_;
    bool is_usable = snapshot.head.end == ECHION_SNAPSHOT_COMPLETE &&
                     snapshot.frames.size() <= std::min(out.size(), options_.max_frames);
    for (const echion_frame& frame : snapshot.frames) {
        const Address code =
            cpython::strip_tag(memory_.layout(), Address(static_cast<std::uintptr_t>(frame.code)));
        if (!is_usable || code == codes_.trampoline()) {
            continue;
        }
        is_usable = cpython::make_raw_frame(
            memory_.layout(), code, static_cast<std::intptr_t>(frame.instruction), &out[count]);
        ++count;
    }
    // The thread may stand between two frames (see FrameWalker): the plain way tells.
    is_usable =
        is_usable && count > 0 &&
        (!cpython::has(memory_.layout().frame.owner) || is_first_of_stack(snapshot.frames.back()));
    unused_ += !is_usable;
    return is_usable ? out.first(count) : std::span<cpython::RawFrame>();
}

void KernelSnapshots::keep(TrackedThread& thread, const engine::SnapshotView& snapshot,
                           std::int64_t tick_ns) {
    const std::span<cpython::RawFrame> frames = convert(snapshot);
    thread.has_snapshot = !frames.empty();
    thread.snapshot_first = used_;
    thread.snapshot_count = frames.size();
    thread.snapshot_ns = snapshot.time_ns;
    thread.snapshot_tick_ns = tick_ns;
    used_ += frames.size();
}

}  // namespace echion::sampling
