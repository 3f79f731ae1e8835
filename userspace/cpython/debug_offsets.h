#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/error.h"
#include "cpython/layout.h"
#include "memory/address.h"
#include "memory/reader.h"

namespace echion::cpython {

/// What CPython 3.13 writes at the start of _PyRuntime for readers from outside: where its own
/// structures keep their fields, in this very build. All fields are 64 bits wide in every ABI.
/// Source: CPython v3.13.0, Include/internal/pycore_runtime.h, struct _Py_DebugOffsets.
struct DebugOffsets313 {
    char cookie[8];
    std::uint64_t version;  // PY_VERSION_HEX
    std::uint64_t free_threaded;
    struct {
        std::uint64_t size, finalizing, interpreters_head;
    } runtime_state;
    struct {
        std::uint64_t size, id, next, threads_head, gc, imports_modules, sysdict, builtins;
        std::uint64_t ceval_gil, gil_runtime_state, gil_runtime_state_enabled;
        std::uint64_t gil_runtime_state_locked, gil_runtime_state_holder;  // from the interpreter
    } interpreter_state;
    struct {
        std::uint64_t size, prev, next, interp, current_frame, thread_id, native_thread_id;
        std::uint64_t datastack_chunk, status;
    } thread_state;
    struct {
        std::uint64_t size, previous, executable, instr_ptr, localsplus, owner;
    } interpreter_frame;
    struct {
        std::uint64_t size, filename, name, qualname, linetable, firstlineno, argcount;
        std::uint64_t localsplusnames, localspluskinds, co_code_adaptive;
    } code_object;
    struct {
        std::uint64_t size, ob_type;
    } pyobject;
    struct {
        std::uint64_t size, tp_name, tp_repr, tp_flags;
    } type_object;
    struct {
        std::uint64_t size, ob_item, ob_size;
    } tuple_object, list_object;
    struct {
        std::uint64_t size, ma_keys, ma_values;
    } dict_object;
    struct {
        std::uint64_t size, ob_fval;
    } float_object;
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
        std::uint64_t size, collecting;
    } gc;
};

/// The same of 3.14. Source: CPython v3.14.0, Include/internal/pycore_debug_offsets.h.
struct DebugOffsets314 {
    char cookie[8];
    std::uint64_t version;
    std::uint64_t free_threaded;
    struct {
        std::uint64_t size, finalizing, interpreters_head;
    } runtime_state;
    struct {
        std::uint64_t size, id, next, threads_head, threads_main, gc, imports_modules, sysdict;
        std::uint64_t builtins, ceval_gil, gil_runtime_state, gil_runtime_state_enabled;
        std::uint64_t gil_runtime_state_locked, gil_runtime_state_holder, code_object_generation;
        std::uint64_t tlbc_generation;
    } interpreter_state;
    struct {
        std::uint64_t size, prev, next, interp, current_frame, thread_id, native_thread_id;
        std::uint64_t datastack_chunk, status;
    } thread_state;
    struct {
        std::uint64_t size, previous, executable, instr_ptr, localsplus, owner, stackpointer;
        std::uint64_t tlbc_index;
    } interpreter_frame;
    struct {
        std::uint64_t size, filename, name, qualname, linetable, firstlineno, argcount;
        std::uint64_t localsplusnames, localspluskinds, co_code_adaptive, co_tlbc;
    } code_object;
    struct {
        std::uint64_t size, ob_type;
    } pyobject;
    struct {
        std::uint64_t size, tp_name, tp_repr, tp_flags;
    } type_object;
    struct {
        std::uint64_t size, ob_item, ob_size;
    } tuple_object, list_object;
    struct {
        std::uint64_t size, used, table, mask;
    } set_object;
    struct {
        std::uint64_t size, ma_keys, ma_values;
    } dict_object;
    struct {
        std::uint64_t size, ob_fval;
    } float_object;
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
        std::uint64_t size, collecting;
    } gc;
};

/// The same of 3.15. Source: CPython v3.15.0, Include/internal/pycore_debug_offsets.h.
struct DebugOffsets315 {
    char cookie[8];
    std::uint64_t version;
    std::uint64_t free_threaded;
    struct {
        std::uint64_t size, finalizing, interpreters_head;
    } runtime_state;
    struct {
        std::uint64_t size, id, next, threads_head, threads_main, gc, imports_modules, sysdict;
        std::uint64_t builtins, ceval_gil, gil_runtime_state, gil_runtime_state_enabled;
        std::uint64_t gil_runtime_state_locked, gil_runtime_state_holder, code_object_generation;
        std::uint64_t tlbc_generation;
    } interpreter_state;
    struct {
        std::uint64_t size, prev, next, interp, current_frame, base_frame, last_profiled_frame;
        std::uint64_t last_profiled_frame_seq, thread_id, native_thread_id, datastack_chunk, status;
        std::uint64_t holds_gil, gil_requested, current_exception, exc_state;
    } thread_state;
    struct {
        std::uint64_t exc_value;
    } err_stackitem;
    struct {
        std::uint64_t size, previous, executable, instr_ptr, localsplus, owner, stackpointer;
        std::uint64_t tlbc_index;
    } interpreter_frame;
    struct {
        std::uint64_t size, filename, name, qualname, linetable, firstlineno, argcount;
        std::uint64_t localsplusnames, localspluskinds, co_code_adaptive, co_tlbc;
    } code_object;
    struct {
        std::uint64_t size, ob_type;
    } pyobject;
    struct {
        std::uint64_t size, tp_name, tp_repr, tp_flags, tp_basicsize, tp_dictoffset;
    } type_object;
    struct {
        std::uint64_t size, ht_cached_keys;
    } heap_type_object;
    struct {
        std::uint64_t size, ob_item, ob_size;
    } tuple_object, list_object;
    struct {
        std::uint64_t size, used, table, mask;
    } set_object;
    struct {
        std::uint64_t size, ma_keys, ma_values;
    } dict_object;
    struct {
        std::uint64_t size, ob_fval;
    } float_object;
    struct {
        std::uint64_t size, lv_tag, ob_digit;
    } long_object;
    struct {
        std::uint64_t size, ob_size, ob_sval;
    } bytes_object;
    struct {
        std::uint64_t size, state, length, asciiobject_size, compactunicodeobject_size;
    } unicode_object;
    struct {
        std::uint64_t size, collecting, frame, generation_stats_size, generation_stats;
    } gc;
};

/// Completes the row of a version from the offsets that the target's runtime states itself.
/// They win over the row, but only after they have been found sane: each field lies inside its
/// structure, aligned, and no structure is more than a few times as large as the row's. A field
/// that they do not state keeps its distance from a stated neighbour.
///
/// A row without debug offsets (3.12 and older) comes back unchanged.
///
/// `runtime`: _PyRuntime. Errors: kUnreadable; kInvalid for a wrong cookie, an insane offset, or a
/// build with a GIL where the row is of one without, or the other way round; kUnsupportedVersion
/// for another version than the row's, and for a free-threaded build of which the row is not true.
Result<Layout> read_debug_offsets(MemoryReader& reader, Address runtime, const Layout& row);

/// Whether the runtime says that its build is free-threaded. `row`: of a build of its version with
/// a GIL. kUnreadable.
Result<bool> is_free_threaded(MemoryReader& reader, Address runtime, const Layout& row);

/// The same from a local copy; which structure it is, the row's debug_offsets_kind says. Pure.
Result<Layout> apply_debug_offsets(const DebugOffsets313& stated, const Layout& row);
Result<Layout> apply_debug_offsets(const DebugOffsets314& stated, const Layout& row);
Result<Layout> apply_debug_offsets(const DebugOffsets315& stated, const Layout& row);

}  // namespace echion::cpython
