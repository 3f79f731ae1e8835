#include "cpython/frame_walker.h"

#include <bit>

#include "base/function_ref.h"

namespace echion::cpython {
namespace {

// No code object is larger: the compiler's own jump offsets end before. Farther away, the pointer
// does not point into this code.
constexpr std::intptr_t kMaxCodeBytes = 1U << 28;

struct ChunkHead {
    Address previous;
    std::uintptr_t size_bytes = 0;
    std::uintptr_t top = 0;

    [[nodiscard]] bool is_possible() const {
        return size_bytes >= kStackChunkBytes && std::has_single_bit(size_bytes);
    }
};

ChunkHead load_chunk_head(const std::byte* copy) {
    return {load_address(copy, 0), load<std::uintptr_t>(copy, sizeof(void*)),
            load<std::uintptr_t>(copy, 2 * sizeof(void*))};
}

/// From the copy of the bytecode that the frame runs (0: the code object's own) to the same place
/// in the code object. What has once been put into the array of copies stays there while a thread
/// with that index lives, also in the larger array that takes its place (CPython
/// Objects/codeobject.c, create_tlbc_lock_held()).
///
/// False where the instruction is outside of that copy. A thread can stand still between the two
/// stores that change from one copy to another (Python/bytecodes.c, _LOAD_BYTECODE); and while it
/// is detached, an array that has been replaced can be freed and used for something else.
bool move_to_code(const Layout& layout, Address code, std::int32_t tlbc_index,
                  FunctionRef<Address(Address)> find_word, std::intptr_t* instruction) {
    const Address own = code + at(layout.code.code_adaptive);
    const std::uintptr_t units = find_word(code + at(layout.object.ob_size)).value();
    Address bytecode = own;
    if (tlbc_index != 0) {
        const Address array = find_word(code + at(layout.code.tlbc));
        const std::uintptr_t count = find_word(array).value();
        if (tlbc_index < 0 || static_cast<std::uintptr_t>(tlbc_index) >= count) {
            return false;
        }
        const auto index = static_cast<std::size_t>(tlbc_index);
        bytecode = find_word(array + at(layout.code.tlbc_entries) + index * sizeof(void*));
    }
    const auto from_start =
        static_cast<std::intptr_t>(static_cast<std::uintptr_t>(*instruction) - bytecode.value());
    // Before the first instruction stands the one before it.
    if (!bytecode || units > kMaxCodeBytes / 2 || from_start < -2 ||
        from_start >= static_cast<std::intptr_t>(2 * units)) {
        return false;
    }
    *instruction = static_cast<std::intptr_t>(own.value()) + from_start;
    return true;
}

/// Parses the copy of a frame with Python code. `find_word`: a word of the target, or null.
bool parse_frame(const Layout& layout, const std::byte* copy,
                 FunctionRef<Address(Address)> find_word, RawFrame* out) {
    const FrameLayout& fields = layout.frame;
    std::intptr_t instruction = fields.instruction_kind == InstructionKind::kCodePointer
                                    ? load<std::intptr_t>(copy, at(fields.instruction))
                                    : load<std::int32_t>(copy, at(fields.instruction));
    const Address code = strip_tag(layout, load_address(copy, at(fields.code)));
    // The last that is read out of `copy`, which finding a word may end.
    if (has(fields.tlbc_index) &&
        !move_to_code(layout, code, load<std::int32_t>(copy, at(fields.tlbc_index)), find_word,
                      &instruction)) {
        return false;
    }
    return make_raw_frame(layout, code, instruction, out);
}

std::int16_t load_owner(const FrameLayout& fields, const std::byte* copy) {
    return has(fields.owner) ? load<std::int8_t>(copy, at(fields.owner)) : std::int16_t{-2};
}

bool has_python_code(const FrameLayout& fields, std::int16_t owner) {
    return !has(fields.owner_without_code) || owner < fields.owner_without_code;
}

}  // namespace

bool is_stack_head(std::span<const std::byte, kStackHeadBytes> bytes) {
    const ChunkHead head = load_chunk_head(bytes.data());
    return head.is_possible() && !head.previous;
}

Address strip_tag(const Layout& layout, Address executable) {
    return Address(executable.value() & ~std::uintptr_t{layout.frame.code_tag});
}

bool make_raw_frame(const Layout& layout, Address code, std::intptr_t instruction, RawFrame* out) {
    if (!code || !code.is_aligned(sizeof(void*))) {
        return false;
    }
    std::intptr_t offset = 0;
    switch (layout.frame.instruction_kind) {
        case InstructionKind::kByteIndex:
            offset = instruction;
            break;
        case InstructionKind::kCodeUnitIndex:
            offset =
                instruction < 0 || instruction >= kMaxCodeBytes ? instruction : 2 * instruction;
            break;
        case InstructionKind::kCodePointer: {
            const Address start = code + static_cast<std::size_t>(layout.code.code_adaptive);
            offset = static_cast<std::intptr_t>(Address(static_cast<std::uintptr_t>(instruction)) -
                                                start);
            break;
        }
    }
    // Before the first instruction: -1, or one unit before it (3.11, 3.12).
    if (offset < -2 || offset >= kMaxCodeBytes) {
        return false;
    }
    *out = {code, static_cast<std::int32_t>(offset)};
    return true;
}

bool read_frame(const Layout& layout, MemoryReader& reader, const std::byte* copy, RawFrame* out) {
    const auto find_word = [&](Address from) {
        const auto word = from && from.is_aligned(sizeof(void*)) ? reader.read_pointer(from)
                                                                 : Result<Address>(Address());
        return word ? *word : Address();
    };
    return has_python_code(layout.frame, load_owner(layout.frame, copy)) &&
           parse_frame(layout, copy, find_word, out);
}

Address FrameWalker::touch(PageSet& pages, Address frame, Address last_page, std::uint32_t walk) {
    const auto frame_size = static_cast<std::size_t>(layout_.frame.size);
    const Address first = Address(frame.value() & ~(kPageBytes - 1));
    const Address last = Address((frame.value() + frame_size - 1) & ~(kPageBytes - 1));
    if (!has(layout_.frame.owner)) {
        // Objects, each in a place of its own that it keeps: no more than them.
        const Address end = frame + frame_size;
        pages.touch(frame, last == first ? end : last, walk);
        if (last != first) {
            pages.touch(last, end, walk);
        }
    } else if (first != last_page || last != last_page) {
        // A stack that grows and shrinks: all of the page.
        for (const Address page : {first, last}) {
            pages.touch(page, page + kPageBytes, walk);
        }
    }
    return first;
}

const std::byte* FrameWalker::find_or_fetch(Address from, std::size_t size_bytes) {
    const std::byte* copy = batch_.find(from, size_bytes);
    return copy != nullptr ? copy : batch_.fetch(reader_, from, size_bytes);
}

bool FrameWalker::is_first_of_stack(Address frame, PageSet& pages, std::uint32_t walk) {
    const Address start = frame - kStackHeadBytes;
    const std::byte* copy = find_or_fetch(start, kStackHeadBytes);
    if (copy != nullptr &&
        is_stack_head(std::span<const std::byte, kStackHeadBytes>(copy, kStackHeadBytes))) {
        pages.touch(start, frame, walk);
        return true;
    }
    // One that is too large for the first chunk lies in the second, above an empty first one.
    copy = find_or_fetch(frame - kChunkHeadBytes, kChunkHeadBytes);
    const ChunkHead second = copy == nullptr ? ChunkHead{} : load_chunk_head(copy);
    if (!second.is_possible() || !second.previous) {
        return false;
    }
    copy = find_or_fetch(second.previous, kChunkHeadBytes);
    const ChunkHead first = copy == nullptr ? ChunkHead{} : load_chunk_head(copy);
    return first.is_possible() && !first.previous && first.top == 1;
}

/// A word, or null where it cannot be read.
Address FrameWalker::find_word(Address from, PageSet& pages, std::uint32_t walk) {
    const std::byte* copy =
        from && from.is_aligned(sizeof(void*)) ? find_or_fetch(from, sizeof(void*)) : nullptr;
    if (copy == nullptr) {
        return {};
    }
    pages.touch(from, from + sizeof(void*), walk);
    return load_address(copy, 0);
}

Walk FrameWalker::walk(Address head, PageSet& pages, std::uint32_t walk, std::span<RawFrame> out,
                       std::span<Address> places) {
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
    const auto find = [&](Address from) { return find_word(from, pages, walk); };
    for (std::size_t step = 1; frame; ++step) {
        if (frame == mark || !frame.is_aligned(sizeof(void*))) {
            result.broken = true;
            result.why = frame == mark ? ErrorKind::kCycle : ErrorKind::kInvalid;
            return result;
        }
        if (step > max_steps) {
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
        last_page = touch(pages, frame, last_page, walk);
        const std::int16_t owner = load_owner(fields, copy);
        const bool has_code = has_python_code(fields, owner);
        if (!has_code && !result.entry) {
            result.entry = frame;
        }
        result.ends_at_generator = owner == fields.owner_generator;
        const Address previous = load_address(copy, at(fields.previous));
        if (has_code) {
            result.root = result.ends_at_generator ? Address() : frame;
            if (result.count == out.size()) {
                result.truncated = true;
                return result;
            }
            if (!parse_frame(layout_, copy, find, &out[result.count])) {
                result.broken = true;
                return result;
            }
            if (out[result.count].code != skipped_code_) {
                if (!places.empty()) {
                    places[result.count] = frame;
                }
                ++result.count;
            }
        }
        frame = previous;
    }
    result.ends_midway =
        has(fields.owner) && result.root && !is_first_of_stack(result.root, pages, walk);
    return result;
}

}  // namespace echion::cpython
