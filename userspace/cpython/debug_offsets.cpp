#include "cpython/debug_offsets.h"

#include <algorithm>
#include <cstring>
#include <initializer_list>

namespace echion::cpython {

namespace {

constexpr char kCookie[8] = {'x', 'd', 'e', 'b', 'u', 'g', 'p', 'y'};

/// The runtime and the interpreter hold caches and static objects: hundreds of KiB in 3.13.
constexpr std::uint64_t kMaxStateBytes = std::uint64_t{1} << 24;
constexpr std::uint64_t kMaxObjectBytes = std::uint64_t{1} << 12;

/// What is taken of them, whatever version states it.
struct StatedOffsets {
    char cookie[8];
    std::uint64_t version, free_threaded;
    struct {
        std::uint64_t size, finalizing, interpreters_head;
    } runtime_state;
    struct {
        std::uint64_t size, id, next, threads_head, gc, imports_modules, ceval_gil;
        std::uint64_t gil_runtime_state, gil_runtime_state_locked, gil_runtime_state_holder;
    } interpreter_state;
    struct {
        std::uint64_t size, prev, next, interp, current_frame, thread_id, native_thread_id;
        std::uint64_t datastack_chunk;
    } thread_state;
    struct {
        std::uint64_t size, previous, executable, instr_ptr, owner, tlbc_index;
    } interpreter_frame;
    struct {
        std::uint64_t size, filename, name, qualname, linetable, firstlineno, co_code_adaptive,
            co_tlbc;
    } code_object;
    struct {
        std::uint64_t size, ob_type;
    } pyobject;
    struct {
        std::uint64_t size, tp_name, tp_flags;
    } type_object;
    struct {
        std::uint64_t size, ma_keys, ma_values;
    } dict_object;
    struct {
        std::uint64_t size, lv_tag, ob_digit;
    } long_object;
    struct {
        std::uint64_t size, ob_size, ob_sval;
    } bytes_object;
    struct {
        std::uint64_t size, state, length, asciiobject_size;
    } unicode_object;
    struct {
        std::uint64_t collecting;
    } gc;
};

template <typename Stated>
StatedOffsets take(const Stated& all) {
    StatedOffsets some{};
    std::memcpy(some.cookie, all.cookie, sizeof(some.cookie));
    some.version = all.version;
    some.free_threaded = all.free_threaded;
    some.runtime_state = {all.runtime_state.size, all.runtime_state.finalizing,
                          all.runtime_state.interpreters_head};
    const auto& interpreter = all.interpreter_state;
    some.interpreter_state = {interpreter.size,
                              interpreter.id,
                              interpreter.next,
                              interpreter.threads_head,
                              interpreter.gc,
                              interpreter.imports_modules,
                              interpreter.ceval_gil,
                              interpreter.gil_runtime_state,
                              interpreter.gil_runtime_state_locked,
                              interpreter.gil_runtime_state_holder};
    const auto& thread = all.thread_state;
    some.thread_state = {thread.size,
                         thread.prev,
                         thread.next,
                         thread.interp,
                         thread.current_frame,
                         thread.thread_id,
                         thread.native_thread_id,
                         thread.datastack_chunk};
    const auto& frame = all.interpreter_frame;
    some.interpreter_frame = {frame.size,      frame.previous, frame.executable,
                              frame.instr_ptr, frame.owner,    0};
    const auto& code = all.code_object;
    some.code_object = {
        code.size,        code.filename,         code.name, code.qualname, code.linetable,
        code.firstlineno, code.co_code_adaptive, 0};
    some.pyobject = {all.pyobject.size, all.pyobject.ob_type};
    some.type_object = {all.type_object.size, all.type_object.tp_name, all.type_object.tp_flags};
    some.dict_object = {all.dict_object.size, all.dict_object.ma_keys, all.dict_object.ma_values};
    some.long_object = {all.long_object.size, all.long_object.lv_tag, all.long_object.ob_digit};
    some.bytes_object = {all.bytes_object.size, all.bytes_object.ob_size, all.bytes_object.ob_sval};
    const auto& unicode = all.unicode_object;
    some.unicode_object = {unicode.size, unicode.state, unicode.length, unicode.asciiobject_size};
    some.gc = {all.gc.collecting};
    if constexpr (requires { all.code_object.co_tlbc; }) {
        some.interpreter_frame.tlbc_index = all.interpreter_frame.tlbc_index;
        some.code_object.co_tlbc = all.code_object.co_tlbc;
    }
    return some;
}

/// Checks the stated offsets of one structure, and notes whether all were sane.
class Structure {
  public:
    Structure(std::uint64_t size, std::uint64_t limit, std::size_t word, bool& sane)
        : size_(size), word_(word), sane_(sane) {
        sane_ = sane_ && size > 0 && size <= limit;
    }

    /// A field of pointer size.
    void word(std::uint64_t stated, Offset& field) { set(stated, word_, field); }
    void int32(std::uint64_t stated, Offset& field) { set(stated, 4, field); }
    void byte(std::uint64_t stated, Offset& field) { set(stated, 1, field); }
    /// int64_t: aligned like a word (the ABI of 32-bit x86 does not align it further).
    void int64(std::uint64_t stated, Offset& field) { set(stated, 8, field); }

  private:
    void set(std::uint64_t stated, std::uint64_t width, Offset& field) {
        const std::uint64_t alignment = std::min<std::uint64_t>(width, word_);
        if (!sane_ || stated > size_ || width > size_ - stated || stated % alignment != 0) {
            sane_ = false;
            return;
        }
        field = static_cast<Offset>(stated);
    }

    std::uint64_t size_;
    std::size_t word_;
    bool& sane_;
};

/// Moves a field that is not stated along with its neighbour.
void follow(Offset& field, Offset neighbour_was, Offset neighbour_is) {
    if (has(field)) {
        field += neighbour_is - neighbour_was;
    }
}

/// Bytes that cover fields of at most `width` bytes each.
Offset cover(Offset width, std::initializer_list<Offset> fields) {
    return std::max(fields) + width;
}

void apply_states(const StatedOffsets& stated, Layout& layout, bool& sane) {
    const Layout row = layout;
    const std::size_t word = row.pointer_bytes;
    const Offset pointer = row.pointer_bytes;

    Structure runtime(stated.runtime_state.size, kMaxStateBytes, word, sane);
    runtime.word(stated.runtime_state.finalizing, layout.runtime.finalizing);
    runtime.word(stated.runtime_state.interpreters_head, layout.runtime.interpreters_head);
    for (Offset* field : {&layout.runtime.interpreters_main, &layout.runtime.main_thread}) {
        follow(*field, row.runtime.interpreters_head, layout.runtime.interpreters_head);
    }
    follow(layout.runtime.initialized, row.runtime.finalizing, layout.runtime.finalizing);
    layout.runtime.size =
        cover(pointer, {layout.runtime.finalizing, layout.runtime.interpreters_head,
                        layout.runtime.interpreters_main, layout.runtime.main_thread});

    const auto& from = stated.interpreter_state;
    Structure interpreter(from.size, kMaxStateBytes, word, sane);
    interpreter.int64(from.id, layout.interpreter.id);
    interpreter.word(from.next, layout.interpreter.next);
    interpreter.word(from.threads_head, layout.interpreter.threads_head);
    interpreter.word(from.imports_modules, layout.interpreter.modules);
    interpreter.word(from.ceval_gil, layout.interpreter.ceval_gil);
    sane = sane && from.gc <= from.size && stated.gc.collecting <= from.size;
    if (sane) {
        interpreter.int32(from.gc + stated.gc.collecting, layout.interpreter.gc_collecting);
    }
    layout.interpreter.size =
        std::max(cover(pointer, {layout.interpreter.next, layout.interpreter.threads_head,
                                 layout.interpreter.modules, layout.interpreter.ceval_gil}),
                 cover(8, {layout.interpreter.id, layout.interpreter.gc_collecting}));

    // Not stated: where the row says, if the row is right in all else.
    if (layout.interpreter.ceval_gil != row.interpreter.ceval_gil ||
        layout.interpreter.modules != row.interpreter.modules ||
        layout.interpreter.threads_head != row.interpreter.threads_head) {
        layout.interpreter.next_version = kAbsent;
    }

    // The fields of the GIL are stated as fields of the interpreter that contains it.
    Structure gil(row.gil.size, kMaxObjectBytes, word, sane);
    sane = sane && from.gil_runtime_state <= from.gil_runtime_state_holder &&
           from.gil_runtime_state <= from.gil_runtime_state_locked;
    if (sane) {
        gil.word(from.gil_runtime_state_holder - from.gil_runtime_state, layout.gil.last_holder);
        gil.int32(from.gil_runtime_state_locked - from.gil_runtime_state, layout.gil.locked);
        follow(layout.gil.switch_number, row.gil.locked, layout.gil.locked);
        layout.gil.size = cover(pointer, {layout.gil.last_holder, layout.gil.switch_number});
    }

    const auto& thread = stated.thread_state;
    Structure thread_state(thread.size, kMaxObjectBytes, word, sane);
    thread_state.word(thread.prev, layout.thread_state.prev);
    thread_state.word(thread.next, layout.thread_state.next);
    thread_state.word(thread.interp, layout.thread_state.interp);
    thread_state.word(thread.current_frame, layout.thread_state.frame);
    thread_state.word(thread.thread_id, layout.thread_state.thread_id);
    thread_state.word(thread.native_thread_id, layout.thread_state.native_thread_id);
    thread_state.word(thread.datastack_chunk, layout.thread_state.datastack_chunk);
    for (Offset* field : {&layout.thread_state.id, &layout.thread_state.datastack_top}) {
        follow(*field, row.thread_state.datastack_chunk, layout.thread_state.datastack_chunk);
    }
    layout.thread_state.size = std::max(
        cover(pointer, {layout.thread_state.prev, layout.thread_state.next,
                        layout.thread_state.interp, layout.thread_state.frame,
                        layout.thread_state.thread_id, layout.thread_state.native_thread_id,
                        layout.thread_state.datastack_chunk, layout.thread_state.datastack_top}),
        cover(8, {layout.thread_state.id}));

    Structure frame(stated.interpreter_frame.size, kMaxObjectBytes, word, sane);
    frame.word(stated.interpreter_frame.previous, layout.frame.previous);
    frame.word(stated.interpreter_frame.executable, layout.frame.code);
    frame.word(stated.interpreter_frame.instr_ptr, layout.frame.instruction);
    frame.byte(stated.interpreter_frame.owner, layout.frame.owner);
    if (has(row.frame.tlbc_index)) {
        frame.int32(stated.interpreter_frame.tlbc_index, layout.frame.tlbc_index);
    }
    layout.frame.size = std::max(
        cover(pointer, {layout.frame.previous, layout.frame.code, layout.frame.instruction}),
        std::max(cover(1, {layout.frame.owner}), cover(4, {layout.frame.tlbc_index})));
}

void apply_objects(const StatedOffsets& stated, Layout& layout, bool& sane) {
    const Layout row = layout;
    const std::size_t word = row.pointer_bytes;
    const Offset pointer = row.pointer_bytes;

    Structure code(stated.code_object.size, kMaxObjectBytes, word, sane);
    code.word(stated.code_object.filename, layout.code.filename);
    code.word(stated.code_object.name, layout.code.name);
    code.word(stated.code_object.qualname, layout.code.qualname);
    code.word(stated.code_object.linetable, layout.code.linetable);
    code.int32(stated.code_object.firstlineno, layout.code.firstlineno);
    code.byte(stated.code_object.co_code_adaptive, layout.code.code_adaptive);
    if (has(row.code.tlbc)) {
        code.word(stated.code_object.co_tlbc, layout.code.tlbc);
    }
    layout.code.size = layout.code.code_adaptive;
    // Not stated, and what it is used for has no second proof: only where all is as in the row.
    if (layout.code.firstlineno != row.code.firstlineno ||
        layout.code.filename != row.code.filename || layout.code.size != row.code.size) {
        layout.code.version = kAbsent;
    }
    // The fixed part must hold the fields that are read as part of it.
    sane = sane && layout.code.size >=
                       cover(pointer, {layout.code.filename, layout.code.name, layout.code.qualname,
                                       layout.code.linetable, layout.code.firstlineno});

    Structure object(stated.pyobject.size, kMaxObjectBytes, word, sane);
    object.word(stated.pyobject.ob_type, layout.object.ob_type);
    sane = sane && stated.pyobject.size % word == 0;
    layout.object.size = static_cast<Offset>(std::min(stated.pyobject.size, kMaxObjectBytes));
    follow(layout.object.ob_size, row.object.size, layout.object.size);

    Structure type(stated.type_object.size, kMaxObjectBytes, word, sane);
    type.word(stated.type_object.tp_name, layout.type.tp_name);
    type.word(stated.type_object.tp_flags, layout.type.tp_flags);
    follow(layout.type.tp_basicsize, row.type.tp_name, layout.type.tp_name);
    follow(layout.type.tp_dictoffset, row.type.tp_flags, layout.type.tp_flags);
    follow(layout.type.ht_cached_keys, row.type.tp_flags, layout.type.tp_flags);
    layout.type.size = cover(pointer, {layout.type.tp_name, layout.type.tp_flags,
                                       layout.type.tp_basicsize, layout.type.tp_dictoffset});

    Structure bytes(stated.bytes_object.size, kMaxObjectBytes, word, sane);
    bytes.word(stated.bytes_object.ob_size, layout.bytes.ob_size);
    bytes.byte(stated.bytes_object.ob_sval, layout.bytes.ob_sval);
    sane = sane && layout.bytes.ob_sval >= cover(pointer, {layout.bytes.ob_size});

    Structure unicode(stated.unicode_object.size, kMaxObjectBytes, word, sane);
    unicode.word(stated.unicode_object.length, layout.unicode.length);
    unicode.int32(stated.unicode_object.state, layout.unicode.state);
    unicode.byte(stated.unicode_object.asciiobject_size, layout.unicode.ascii_data);
    follow(layout.unicode.compact_data, row.unicode.ascii_data, layout.unicode.ascii_data);
    follow(layout.unicode.data_any, row.unicode.ascii_data, layout.unicode.ascii_data);
    sane = sane && layout.unicode.ascii_data >= cover(4, {layout.unicode.state}) &&
           layout.unicode.ascii_data >= cover(pointer, {layout.unicode.length});

    Structure integer(stated.long_object.size, kMaxObjectBytes, word, sane);
    integer.word(stated.long_object.lv_tag, layout.integer.lv_tag);
    integer.int32(stated.long_object.ob_digit, layout.integer.ob_digit);
    sane = sane && layout.integer.ob_digit >= cover(pointer, {layout.integer.lv_tag});

    Structure dict(stated.dict_object.size, kMaxObjectBytes, word, sane);
    dict.word(stated.dict_object.ma_keys, layout.dict.ma_keys);
    dict.word(stated.dict_object.ma_values, layout.dict.ma_values);
    follow(layout.dict.ma_used, row.dict.ma_keys, layout.dict.ma_keys);
    layout.dict.size = static_cast<Offset>(std::min(stated.dict_object.size, kMaxObjectBytes));
}

/// Fields that moved along with a neighbour must not have left their structure at its front; and
/// nothing may have grown beyond what a reader's buffers are made for.
bool is_plausible(const Layout& layout, const Layout& row) {
    for (Offset field :
         {layout.runtime.initialized, layout.runtime.interpreters_main, layout.runtime.main_thread,
          layout.thread_state.id, layout.thread_state.datastack_top, layout.gil.switch_number,
          layout.object.ob_size, layout.type.tp_basicsize, layout.type.tp_dictoffset,
          layout.type.ht_cached_keys, layout.unicode.compact_data, layout.dict.ma_used}) {
        if (field < 0) {
            return false;
        }
    }
    const auto within = [](Offset is, Offset was) { return is > 0 && is <= 2 * was; };
    return within(layout.thread_state.size, row.thread_state.size) &&
           within(layout.gil.size, row.gil.size) && within(layout.frame.size, row.frame.size) &&
           within(layout.code.size, row.code.size) && within(layout.object.size, row.object.size) &&
           within(layout.type.size, row.type.size) &&
           within(layout.bytes.ob_sval, row.bytes.ob_sval) &&
           within(layout.unicode.ascii_data, row.unicode.ascii_data) &&
           within(layout.integer.ob_digit, row.integer.ob_digit) &&
           within(layout.dict.size, row.dict.size) &&
           layout.dict.ma_used + row.pointer_bytes <= layout.dict.size;
}

Result<Layout> apply(const StatedOffsets& stated, const Layout& row) {
    if (std::memcmp(stated.cookie, kCookie, sizeof(kCookie)) != 0) {
        return fail(ErrorKind::kInvalid, "debug offsets: no cookie");
    }
    if (stated.version >> 24U != row.major || ((stated.version >> 16U) & 0xffU) != row.minor) {
        return fail(ErrorKind::kUnsupportedVersion, "debug offsets: of another CPython version");
    }
    if (stated.free_threaded != std::uint64_t{row.free_threaded}) {
        return fail(ErrorKind::kInvalid, "debug offsets: free-threaded or not?");
    }
    Layout layout = row;
    bool sane = true;
    apply_states(stated, layout, sane);
    apply_objects(stated, layout, sane);
    if (!sane || !is_plausible(layout, row)) {
        return fail(ErrorKind::kInvalid, "debug offsets: a field outside its structure");
    }
    // What is not stated of such a build has no neighbour to move along with.
    if (row.free_threaded && std::memcmp(&layout, &row, sizeof(Layout)) != 0) {
        return fail(ErrorKind::kUnsupportedVersion,
                    "a free-threaded CPython build that is laid out otherwise than its version's");
    }
    return layout;
}

template <typename Stated>
Result<Layout> read_and_apply(MemoryReader& reader, Address at, const Layout& row) {
    const auto stated = reader.read_value<Stated>(at);
    return stated ? apply(take(*stated), row) : tl::unexpected(stated.error());
}

}  // namespace

Result<Layout> apply_debug_offsets(const DebugOffsets313& stated, const Layout& row) {
    return apply(take(stated), row);
}

Result<Layout> apply_debug_offsets(const DebugOffsets314& stated, const Layout& row) {
    return apply(take(stated), row);
}

Result<Layout> apply_debug_offsets(const DebugOffsets315& stated, const Layout& row) {
    return apply(take(stated), row);
}

Result<bool> is_free_threaded(MemoryReader& reader, Address runtime, const Layout& row) {
    if (row.runtime.debug_offsets_kind == DebugOffsetsKind::kNone) {
        return false;
    }
    // The cookie, the version and this are where they are in all versions.
    const auto flag = reader.read_value<std::uint64_t>(runtime + at(row.runtime.debug_offsets) +
                                                       offsetof(DebugOffsets313, free_threaded));
    return flag ? Result<bool>(*flag == 1) : tl::unexpected(flag.error());
}

Result<Layout> read_debug_offsets(MemoryReader& reader, Address runtime, const Layout& row) {
    const Address at = runtime + row.runtime.debug_offsets;
    switch (row.runtime.debug_offsets_kind) {
        case DebugOffsetsKind::kNone:
            break;
        case DebugOffsetsKind::k313:
            return read_and_apply<DebugOffsets313>(reader, at, row);
        case DebugOffsetsKind::k314:
            return read_and_apply<DebugOffsets314>(reader, at, row);
        case DebugOffsetsKind::k315:
            return read_and_apply<DebugOffsets315>(reader, at, row);
    }
    return row;
}

}  // namespace echion::cpython
