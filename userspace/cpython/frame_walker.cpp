#include "cpython/frame_walker.h"

namespace echion::cpython {
namespace {

// No code object is larger: the compiler's own jump offsets end before. Farther away, the pointer
// does not point into this code.
constexpr std::uintptr_t kMaxCodeBytes = 1U << 28;

// Where the frame is in its code, in bytes; nothing when the frame cannot be what it should.
bool parse_offset(const Layout& layout, const std::byte* frame, Address code,
                  std::int32_t* offset) {
    const auto at = static_cast<std::size_t>(layout.frame.instruction);
    switch (layout.frame.instruction_kind) {
        case InstructionKind::kByteIndex:
            *offset = load<std::int32_t>(frame, at);
            break;
        case InstructionKind::kCodeUnitIndex: {
            const auto index = load<std::int32_t>(frame, at);
            if (index > static_cast<std::int32_t>(kMaxCodeBytes / 2)) {
                return false;
            }
            *offset = index < 0 ? -1 : index * 2;
            break;
        }
        case InstructionKind::kCodePointer: {
            // 3.11 and 3.12 point one unit before the first instruction of a frame not started yet.
            const Address start = code + static_cast<std::size_t>(layout.code.code_adaptive) - 2;
            const std::size_t distance = load_address(frame, at) - start;
            if (distance > kMaxCodeBytes) {
                return false;
            }
            *offset = static_cast<std::int32_t>(distance) - 2;
            break;
        }
    }
    return *offset >= -2 && *offset < static_cast<std::int32_t>(kMaxCodeBytes);
}

}  // namespace

Walk FrameWalker::walk(Address head, PageSet& pages, std::uint32_t walk, std::span<RawFrame> out) {
    const FrameLayout& fields = layout_.frame;
    const auto frame_size = static_cast<std::size_t>(fields.size);
    Walk result;
    Address frame = head;
    Address last_page;
    // Entry frames without code do not count as output, so that the steps have a bound of their
    // own.
    const std::size_t max_steps = 2 * out.size() + 16;
    // Brent's cycle detection: a mark that is moved up at every power of two.
    Address mark;
    std::size_t mark_at = 1;
    for (std::size_t step = 1; frame; ++step) {
        if (frame == mark || !frame.is_aligned(sizeof(void*))) {
            result.broken = true;
            result.why = frame == mark ? ErrorKind::kCycle : ErrorKind::kInvalid;
            return result;
        }
        if (result.count == out.size() || step > max_steps) {
            result.truncated = true;
            return result;
        }
        if (step == mark_at) {
            mark = frame;
            mark_at *= 2;
        }
        const std::byte* copy = batch_.find(frame, frame_size);
        if (copy == nullptr) {
            copy = batch_.fetch(reader_, frame, frame_size);
        }
        if (copy == nullptr) {
            result.broken = true;
            result.why = ErrorKind::kUnreadable;
            return result;
        }
        const Address first = Address(frame.value() & ~(kPageBytes - 1));
        const Address last = Address((frame.value() + frame_size - 1) & ~(kPageBytes - 1));
        if (first != last_page || last != last_page) {
            pages.touch(first, walk);
            if (last != first) {
                pages.touch(last, walk);
            }
            last_page = first;
        }
        const bool has_code =
            !has(fields.owner) ||
            load<std::int8_t>(copy, static_cast<std::size_t>(fields.owner)) != fields.owner_cstack;
        if (has_code) {
            RawFrame& raw = out[result.count];
            raw.code = load_address(copy, static_cast<std::size_t>(fields.code));
            if (!raw.code || !raw.code.is_aligned(sizeof(void*)) ||
                !parse_offset(layout_, copy, raw.code, &raw.offset)) {
                result.broken = true;
                return result;
            }
            ++result.count;
        }
        frame = load_address(copy, static_cast<std::size_t>(fields.previous));
    }
    return result;
}

}  // namespace echion::cpython
