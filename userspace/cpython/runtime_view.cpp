#include "cpython/runtime_view.h"

#include <array>

namespace echion::cpython {
namespace {

// Large enough for the part of each structure that the layouts name (`size`); checked when used.
constexpr std::size_t kMaxThreadStateBytes = 1024;
constexpr std::size_t kMaxGilBytes = 256;
// _Py_THREAD_ATTACHED (CPython Include/internal/pycore_pystate.h, 3.13 to 3.15).
constexpr std::int32_t kAttached = 1;

Address load_field(const std::byte* copy, Offset offset) {
    return has(offset) ? load_address(copy, static_cast<std::size_t>(offset)) : Address();
}

Address field(Address base, Offset offset) { return base + static_cast<std::size_t>(offset); }

}  // namespace

Status check_ready(MemoryReader& reader, const RuntimeView& view) {
    const RuntimeLayout& layout = view.layout->runtime;
    const auto initialized =
        reader.read_value<std::int32_t>(field(view.runtime, layout.initialized));
    if (!initialized) {
        return tl::unexpected(initialized.error());
    }
    const auto main = reader.read_pointer(field(view.runtime, layout.interpreters_main));
    if (!main) {
        return tl::unexpected(main.error());
    }
    if (*initialized == 0 || main->is_null()) {
        return fail(ErrorKind::kNotReady, "the Python runtime is not initialised");
    }
    return {};
}

Result<std::size_t> read_interpreters(MemoryReader& reader, const RuntimeView& view,
                                      std::span<InterpreterHead> out) {
    const Layout& layout = *view.layout;
    auto next = reader.read_pointer(field(view.runtime, layout.runtime.interpreters_head));
    std::size_t count = 0;
    while (next && *next) {
        if (count == out.size()) {
            return fail(ErrorKind::kBoundExceeded, "more interpreters than can be followed");
        }
        InterpreterHead& head = out[count++];
        head.interpreter = *next;
        const auto id = reader.read_value<std::int64_t>(field(*next, layout.interpreter.id));
        if (!id) {
            return tl::unexpected(id.error());
        }
        head.id = *id;
        if (has(layout.interpreter.ceval_gil)) {
            const auto gil = reader.read_pointer(field(*next, layout.interpreter.ceval_gil));
            if (!gil) {
                return tl::unexpected(gil.error());
            }
            head.gil = *gil;
        } else {
            head.gil = field(view.runtime, layout.runtime.ceval_gil);
        }
        next = reader.read_pointer(field(*next, layout.interpreter.next));
    }
    if (!next) {
        return tl::unexpected(next.error());
    }
    if (count == 0) {
        return fail(ErrorKind::kNotReady, "the Python runtime has no interpreter");
    }
    return count;
}

Address current_state_address(const RuntimeView& view) {
    const Offset offset = view.layout->runtime.tstate_current;
    return has(offset) ? field(view.runtime, offset) : Address();
}

GilState parse_gil(const Layout& layout, const std::byte* copy, const std::byte* current_copy) {
    GilState gil;
    gil.last_holder = load_field(copy, layout.gil.last_holder);
    gil.locked = load<std::int32_t>(copy, static_cast<std::size_t>(layout.gil.locked));
    gil.switch_number =
        load<std::uintptr_t>(copy, static_cast<std::size_t>(layout.gil.switch_number));
    if (current_copy != nullptr) {
        gil.current = load_address(current_copy, 0);
    } else if (gil.locked > 0) {
        gil.current = gil.last_holder;
    }
    return gil;
}

ThreadHead parse_thread_head(const Layout& layout, const std::byte* copy) {
    const ThreadStateLayout& fields = layout.thread_state;
    ThreadHead head;
    head.prev = load_field(copy, fields.prev);
    head.next = load_field(copy, fields.next);
    head.interpreter = load_field(copy, fields.interp);
    head.frame = load_field(copy, fields.frame);
    head.cframe = load_field(copy, fields.cframe);
    head.id = load<std::uint64_t>(copy, static_cast<std::size_t>(fields.id));
    head.thread_id = load_field(copy, fields.thread_id).value();
    head.native_id = static_cast<std::uint32_t>(load_field(copy, fields.native_thread_id).value());
    head.is_attached =
        has(fields.state) &&
        load<std::int32_t>(copy, static_cast<std::size_t>(fields.state)) == kAttached;
    return head;
}

Result<Address> read_threads_head(MemoryReader& reader, const RuntimeView& view,
                                  Address interpreter) {
    return reader.read_pointer(field(interpreter, view.layout->interpreter.threads_head));
}

Result<ThreadHead> read_thread_head(MemoryReader& reader, const RuntimeView& view, Address thread) {
    std::array<std::byte, kMaxThreadStateBytes> copy;
    const auto size = static_cast<std::size_t>(view.layout->thread_state.size);
    if (size > copy.size()) {
        return fail(ErrorKind::kBoundExceeded, "a thread state larger than expected");
    }
    if (auto status = reader.read_bytes(thread, copy.data(), size); !status) {
        return tl::unexpected(status.error());
    }
    return parse_thread_head(*view.layout, copy.data());
}

Result<GilState> read_gil(MemoryReader& reader, const RuntimeView& view, Address gil) {
    std::array<std::byte, kMaxGilBytes> copy;
    const auto size = static_cast<std::size_t>(view.layout->gil.size);
    if (size > copy.size()) {
        return fail(ErrorKind::kBoundExceeded, "a GIL larger than expected");
    }
    std::array<std::byte, sizeof(void*)> current;
    const Address current_at = current_state_address(view);
    const ReadRequest requests[] = {{gil, copy.data(), size},
                                    {current_at, current.data(), current.size()}};
    const std::size_t count = current_at ? 2 : 1;
    if (reader.read({requests, count}) != count) {
        return fail(ErrorKind::kUnreadable, "a GIL that cannot be read");
    }
    return parse_gil(*view.layout, copy.data(), current_at ? current.data() : nullptr);
}

}  // namespace echion::cpython
