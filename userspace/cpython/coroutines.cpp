#include "cpython/coroutines.h"

#include <array>
#include <cstring>

namespace echion::cpython {
namespace {

// A frame up to its value stack, in any version.
constexpr std::size_t kMaxFrameBytes = 512;
// Values on a stack, and variables. CPython's own limit on a stack's depth is far higher; no code
// that a compiler made from a program comes near this.
constexpr std::intptr_t kMaxValues = std::intptr_t{1} << 20;

/// The place behind the top of a suspended frame's value stack; null: it is not suspended.
Address read_stack_top(ObjectReader& objects, Address frame) {
    const FrameLayout& fields = objects.layout().frame;
    MemoryReader& memory = objects.memory();
    switch (fields.stacktop_kind) {
        case StackTopKind::kPointer:
            return read_word(objects, frame + at(fields.stacktop));
        case StackTopKind::kDepth: {
            const auto depth = memory.read_value<std::int32_t>(frame + at(fields.stacktop));
            const Address values = read_word(objects, frame + at(fields.valuestack));
            return depth && *depth >= 0 && *depth <= kMaxValues && values
                       ? values + static_cast<std::size_t>(*depth) * sizeof(void*)
                       : Address();
        }
        case StackTopKind::kIndex: {
            const auto top = memory.read_value<std::int32_t>(frame + at(fields.stacktop));
            return top && *top >= 0 && *top <= kMaxValues
                       ? frame + at(fields.localsplus) +
                             static_cast<std::size_t>(*top) * sizeof(void*)
                       : Address();
        }
    }
    return {};
}

/// Whether the next instruction of a suspended frame is that of an `await` or `yield from`.
bool is_at_await(ObjectReader& objects, Address frame, const RawFrame& raw) {
    const Layout& layout = objects.layout();
    const GeneratorLayout& fields = layout.generator;
    MemoryReader& memory = objects.memory();
    std::array<std::uint8_t, 2> next{};
    if (fields.awaiting_kind == AwaitingKind::kYieldFrom) {
        if (raw.offset < 0) {
            return false;
        }
        const Address code = read_word(objects, raw.code + at(layout.code.co_code));
        if (!is_object_address(code)) {
            return false;
        }
        const auto length = memory.read_value<std::intptr_t>(code + at(layout.bytes.ob_size));
        if (!length || raw.offset + 3 >= *length ||
            !memory.read_bytes(
                code + at(layout.bytes.ob_sval) + static_cast<std::size_t>(raw.offset) + 2,
                next.data(), next.size())) {
            return false;
        }
        return next[0] == fields.yield_from;
    }
    const Address instruction = read_word(objects, frame + at(layout.frame.instruction));
    // An odd address is no instruction's; read_word() has looked at where it stands only.
    if (!instruction || !memory.read_bytes(instruction + 2, next.data(), next.size())) {
        return false;
    }
    constexpr std::uint8_t kAfterYieldFrom = 2;  // the oparg; 3: after an await
    return (next[0] == fields.resume || next[0] == fields.resume_special) &&
           next[1] >= kAfterYieldFrom;
}

CoroutineState find_state(const GeneratorLayout& fields, std::int8_t state) {
    if (state == fields.executing) {
        return CoroutineState::kExecuting;
    }
    if (state == fields.created) {
        return CoroutineState::kCreated;
    }
    const bool is_suspended = state == fields.suspended || state == fields.suspended_yield_from ||
                              state == fields.yield_from_locked;
    return is_suspended ? CoroutineState::kSuspended : CoroutineState::kFinished;
}

}  // namespace

Result<Coroutine> read_coroutine(ObjectReader& objects, Address object) {
    const Layout& layout = objects.layout();
    const GeneratorLayout& fields = layout.generator;
    MemoryReader& memory = objects.memory();
    Coroutine out;
    std::int8_t state = 0;
    if (fields.frame_is_inside) {
        const auto read = memory.read_value<std::int8_t>(object + at(fields.state));
        if (!read) {
            return tl::unexpected(read.error());
        }
        state = *read;
        out.state = find_state(fields, state);
        out.place = object + at(fields.frame);
    } else {
        const auto frame = memory.read_pointer(object + at(fields.frame));
        if (!frame) {
            return tl::unexpected(frame.error());
        }
        out.place = *frame;
        out.state = *frame ? CoroutineState::kSuspended : CoroutineState::kFinished;
        if (*frame && !is_object_address(*frame)) {
            return fail(ErrorKind::kInvalid, "read a coroutine: its frame");
        }
    }
    if (out.state == CoroutineState::kFinished || out.state == CoroutineState::kExecuting) {
        return out;
    }
    std::array<std::byte, kMaxFrameBytes> copy;
    const std::size_t frame_bytes = at(layout.frame.size);
    if (frame_bytes > copy.size()) {
        return fail(ErrorKind::kInvalid, "read a coroutine: the layout");
    }
    if (auto status = memory.read_bytes(out.place, copy.data(), frame_bytes); !status) {
        return tl::unexpected(status.error());
    }
    if (!read_frame(layout, memory, copy.data(), &out.frame)) {
        return fail(ErrorKind::kInvalid, "read a coroutine: its frame");
    }
    if (!fields.frame_is_inside && out.frame.offset < 0) {
        out.state = CoroutineState::kCreated;
    }
    if (out.state == CoroutineState::kCreated) {
        return out;
    }
    const Address top = read_stack_top(objects, out.place);
    if (!fields.frame_is_inside && !top) {
        // Up to 3.10 a frame that is executed has no top.
        out.state = CoroutineState::kExecuting;
        return out;
    }
    const bool awaits =
        fields.awaiting_kind == AwaitingKind::kState
            ? state == fields.suspended_yield_from || state == fields.yield_from_locked
            : is_at_await(objects, out.place, out.frame);
    if (awaits && top) {
        const Address value = read_word(objects, top - fields.awaited_below_top * sizeof(void*));
        out.awaits = strip_tag(layout, value);
        if (!is_object_address(out.awaits)) {
            return fail(ErrorKind::kInvalid, "read a coroutine: what it waits for");
        }
    }
    return out;
}

CoroutineChain follow_coroutines(ObjectReader& objects, TypeKinds& kinds, Address coroutine,
                                 std::span<RawFrame> out) {
    CoroutineChain chain;
    Address object = coroutine;
    bool is_first = true;
    // Drivers in between give no frame, so that the steps have a bound of their own.
    const std::size_t max_steps = 2 * out.size() + 16;
    for (std::size_t step = 0; object; ++step) {
        if (step == max_steps) {
            chain.truncated = true;
            return chain;
        }
        const TypeKind kind = kinds.find(objects, object);
        if (kind == TypeKind::kDriver) {
            object = read_word(objects, object + at(objects.layout().object.size));
            chain.broken = !object;
            continue;
        }
        if (!is_coroutine(kind)) {
            chain.end = object;
            return chain;
        }
        const auto read = read_coroutine(objects, object);
        if (!read) {
            chain.broken = true;
            return chain;
        }
        if (is_first) {
            is_first = false;
            chain.state = read->state;
            chain.place = read->place;
        }
        if (read->state == CoroutineState::kExecuting || read->state == CoroutineState::kFinished) {
            // Below a suspended one, none can be either.
            chain.broken = chain.count != 0;
            return chain;
        }
        if (chain.count == out.size()) {
            chain.truncated = true;
            return chain;
        }
        out[chain.count++] = read->frame;
        object = read->awaits;
    }
    return chain;
}

}  // namespace echion::cpython
