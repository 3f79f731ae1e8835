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

/// Completes the row of a version from the offsets that the target's runtime states itself.
/// They win over the row, but only after they have been found sane: each field lies inside its
/// structure, aligned, and no structure is more than a few times as large as the row's. A field
/// that they do not state keeps its distance from a stated neighbour.
///
/// A row without debug offsets (3.12 and older) comes back unchanged.
///
/// `runtime`: _PyRuntime. Errors: kUnreadable; kInvalid for a wrong cookie or an insane offset;
/// kUnsupportedVersion for a free-threaded build, or for another version than the row's.
Result<Layout> read_debug_offsets(MemoryReader& reader, Address runtime, const Layout& row);

/// The same from a local copy. Pure.
Result<Layout> apply_debug_offsets(const DebugOffsets313& stated, const Layout& row);

}  // namespace echion::cpython
