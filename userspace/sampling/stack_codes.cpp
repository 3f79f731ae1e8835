#include "sampling/stack_codes.h"

#include <algorithm>
#include <utility>

namespace echion::sampling {
namespace {

// A stack is looked up again when a code object changes its id meanwhile; rarely more than once.
constexpr int kLookups = 4;

}  // namespace

Status StackCodes::reserve(std::size_t max_frames) {
    auto codes = FixedArray<Address>::make(max_frames);
    auto refs = FixedArray<stream::FrameRef>::make(max_frames);
    if (!codes || !refs) {
        return fail(ErrorKind::kNoSpace, "reserve memory for a stack");
    }
    found_codes_ = std::move(*codes);
    found_refs_ = std::move(*refs);
    return {};
}

bool StackCodes::assign_once(const LastStack& last, std::span<const cpython::RawFrame> raw,
                             std::size_t* kept) {
    const std::uint32_t numbering = this->numbering();
    const Address trampoline = codes_.trampoline();
    const std::size_t count = raw.size();
    const bool has_same_ids = last.codes_numbering == numbering;
    const std::size_t common = has_same_ids ? std::min<std::size_t>(count, last.frame_count) : 0;
    const std::size_t held =
        has_same_ids && codes_.holds_since(last.refs_look) ? last.refs_count : 0;
    *kept = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const cpython::RawFrame& frame = raw[count - 1 - i];
        stream::FrameRef ref{0, frame.offset};
        if (i > 0 && found_codes_[i - 1] == frame.code) {
            ref.code_id = found_refs_[i - 1].code_id;  // recursion
        } else if (i < held && last.codes[i] == frame.code &&
                   last.refs[i].code_id != code::CodeRegistry::kUnknownCode) {
            ref.code_id = last.refs[i].code_id;
        } else if (TaskLabels::is_label(frame.code)) {
            ref.code_id = labels_.find_id(ticks_, frame.code);
        } else {
            ref.code_id = codes_.find_id(memory_.reader, sink_, frame.code);
        }
        if (!TaskLabels::is_label(frame.code)) {
            ref.offset = codes_.find_place(memory_.reader, frame.code, frame.offset);
        }
        if (*kept == i && i < common && last.refs[i] == ref) {
            ++*kept;
        }
        found_codes_[i] = frame.code;
        found_refs_[i] = ref;
        ticks_.split();
    }
    // Else what has been assigned may be outdated: once more.
    return this->numbering() == numbering && codes_.trampoline() == trampoline;
}

AssignedStack StackCodes::assign(const LastStack& last, std::span<cpython::RawFrame> raw) {
    AssignedStack stack;
    for (int lookup = 1; !assign_once(last, raw, &stack.kept) && lookup < kLookups; ++lookup) {
        // Only just met, the trampoline is still in this stack.
        const auto end = std::remove_if(raw.begin(), raw.end(), [&](const auto& frame) {
            return frame.code == codes_.trampoline();
        });
        raw = raw.first(static_cast<std::size_t>(end - raw.begin()));
    }
    stack.codes = found_codes_.data();
    stack.refs = found_refs_.data();
    stack.frame_count = raw.size();
    stack.numbering = numbering();
    stack.look = codes_.look();
    stack.lacks_lines = codes_.take_missing_lines();
    return stack;
}

}  // namespace echion::sampling
