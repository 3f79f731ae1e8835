"""What userspace/cpython/layout.h holds of each CPython structure, and where it is by version.

This is the table that a new CPython version extends (docs/adding-a-cpython-version.md). Read by
gen_layouts.py, which writes the rows, and layout_probe.py, which asks the compiler for numbers.
"""

SUPPORTED = [(3, minor) for minor in range(8, 16)]


def since(minor, text):
    """The field exists from 3.`minor` on."""
    return {(minor, 99): text}


def until(minor, text):
    """The field exists up to and including 3.`minor`."""
    return {(0, minor): text}


class FreeThreadedOnly:
    """A choice by version of a field that only free-threaded builds have."""

    def __init__(self, choices):
        self.choices = choices


class WithGilOnly:
    """The same of a field that free-threaded builds do not have."""

    def __init__(self, choices):
        self.choices = choices


class Struct:
    """One structure of layout.h.

    member   its name in Layout
    header   where CPython declares it: {(first minor, last minor): file}
    c_type   its C type, likewise
    fields   (field of layout.h, C member path by version); a path may also be a tagged
             expression, see STRUCTS. A version that no range covers: the field is absent.
    """

    def __init__(self, member, header, c_type, fields):
        self.member = member
        self.header = header if isinstance(header, dict) else {(0, 99): header}
        self.c_type = c_type if isinstance(c_type, dict) else {(0, 99): c_type}
        self.fields = fields


def pick(choices, minor, free_threaded=False):
    """The choice for 3.`minor`, or None."""
    if isinstance(choices, FreeThreadedOnly):
        return pick(choices.choices, minor) if free_threaded else None
    if isinstance(choices, WithGilOnly):
        return None if free_threaded else pick(choices.choices, minor)
    if not isinstance(choices, dict):
        return choices
    for (first, last), value in choices.items():
        if first <= minor <= last:
            return value
    return None


# How a field's text is read: "a.b" an offset; "=expr" a C expression; "@cover" the bytes that
# cover the structure's other fields; "#text" a literal of layout.h (an enumerator), by version.
STRUCTS = [
    Struct(
        "runtime",
        {
            (8, 8): "Include/internal/pycore_pystate.h",
            (9, 13): "Include/internal/pycore_runtime.h",
            (14, 99): "Include/internal/pycore_runtime_structs.h",
        },
        "_PyRuntimeState",
        [
            ("size", "@cover"),
            ("initialized", "initialized"),
            ("finalizing", {(8, 8): "finalizing", (9, 99): "_finalizing"}),
            ("interpreters_head", "interpreters.head"),
            ("interpreters_main", "interpreters.main"),
            ("main_thread", "main_thread"),
            ("ceval_gil", until(11, "ceval.gil")),
            ("tstate_current", until(11, "gilstate.tstate_current")),
            ("gc_collecting", until(8, "gc.collecting")),
            ("gc_generations", until(8, "=offsetof(_PyRuntimeState, gc.generations)")),
            ("debug_offsets", since(13, "debug_offsets")),
            (
                "debug_offsets_kind",
                {
                    (8, 12): "#DebugOffsetsKind::kNone",
                    (13, 13): "#DebugOffsetsKind::k313",
                    (14, 14): "#DebugOffsetsKind::k314",
                    (15, 15): "#DebugOffsetsKind::k315",
                },
            ),
        ],
    ),
    Struct(
        "interpreter",
        {
            (8, 8): "Include/internal/pycore_pystate.h",
            (9, 13): "Include/internal/pycore_interp.h",
            (14, 99): "Include/internal/pycore_interp_structs.h",
        },
        "PyInterpreterState",
        [
            ("size", "@cover"),
            ("id", "id"),
            ("next", "next"),
            ("threads_head", {(8, 10): "tstate_head", (11, 99): "threads.head"}),
            ("modules", {(8, 11): "modules", (12, 99): "imports.modules"}),
            ("ceval_gil", since(12, "ceval.gil")),
            ("gc_collecting", since(9, "gc.collecting")),
            (
                "gc_generations",
                WithGilOnly(since(9, "=offsetof(PyInterpreterState, gc.generations)")),
            ),
            ("next_version", since(13, "func_state.next_version")),
            ("stop_requester", FreeThreadedOnly(since(13, "stoptheworld.requester"))),
            ("asyncio_tasks_head", since(14, "=offsetof(PyInterpreterState, asyncio_tasks_head)")),
        ],
    ),
    Struct(
        "gil",
        "Include/internal/pycore_gil.h",
        "struct _gil_runtime_state",
        [
            ("size", "@cover"),
            ("last_holder", "last_holder"),
            ("locked", "locked"),
            ("switch_number", "switch_number"),
        ],
    ),
    Struct(
        "thread_state",
        "Include/cpython/pystate.h",
        "PyThreadState",
        [
            ("size", "@cover"),
            ("prev", "prev"),
            ("next", "next"),
            ("interp", "interp"),
            ("frame", {(8, 10): "frame", (13, 99): "current_frame"}),
            ("cframe", {(11, 12): "cframe"}),
            ("thread_id", "thread_id"),
            ("native_thread_id", since(11, "native_thread_id")),
            ("id", "id"),
            ("datastack_chunk", since(11, "datastack_chunk")),
            ("datastack_top", since(11, "datastack_top")),
            ("state", FreeThreadedOnly(since(13, "state"))),
            ("dict", "=offsetof(PyThreadState, dict)"),
            ("exc_state", "=offsetof(PyThreadState, exc_state)"),
            ("asyncio_running_loop", since(13, "=offsetof(_PyThreadStateImpl, asyncio_running_loop)")),
            ("asyncio_running_task", since(14, "=offsetof(_PyThreadStateImpl, asyncio_running_task)")),
            ("asyncio_tasks_head", since(14, "=offsetof(_PyThreadStateImpl, asyncio_tasks_head)")),
        ],
    ),
    Struct(
        "cframe",
        "Include/cpython/pystate.h",
        {(11, 11): "_PyCFrame", (12, 12): "_PyCFrame"},
        [("current_frame", {(11, 12): "current_frame"})],
    ),
    Struct(
        "frame",
        {
            (8, 8): "Include/frameobject.h",
            (9, 10): "Include/cpython/frameobject.h",
            (11, 13): "Include/internal/pycore_frame.h",
            (14, 99): "Include/internal/pycore_interpframe_structs.h, pycore_stackref.h",
        },
        {(8, 10): "PyFrameObject", (11, 99): "_PyInterpreterFrame"},
        [
            ("size", "@cover"),
            ("previous", {(8, 10): "f_back", (11, 99): "previous"}),
            ("code", {(8, 12): "f_code", (13, 99): "f_executable"}),
            ("code_tag", {(8, 13): "=0", (14, 99): "=Py_TAG_BITS"}),
            (
                "instruction",
                {(8, 10): "f_lasti", (11, 12): "prev_instr", (13, 99): "instr_ptr"},
            ),
            ("owner", since(11, "owner")),
            ("valuestack", {(10, 10): "=offsetof(PyFrameObject, f_valuestack)"}),
            (
                "stacktop",
                {
                    (8, 9): "=offsetof(PyFrameObject, f_stacktop)",
                    (10, 10): "=offsetof(PyFrameObject, f_stackdepth)",
                    (11, 13): "=offsetof(_PyInterpreterFrame, stacktop)",
                    (14, 99): "=offsetof(_PyInterpreterFrame, stackpointer)",
                },
            ),
            (
                "stacktop_kind",
                {
                    (8, 9): "#StackTopKind::kPointer",
                    (10, 10): "#StackTopKind::kDepth",
                    (11, 13): "#StackTopKind::kIndex",
                    (14, 99): "#StackTopKind::kPointer",
                },
            ),
            ("localsplus", since(11, "=offsetof(_PyInterpreterFrame, localsplus)")),
            ("frame_object", since(11, "=offsetof(_PyInterpreterFrame, frame_obj)")),
            ("tlbc_index", FreeThreadedOnly(since(14, "tlbc_index"))),
            ("is_entry", {(11, 11): "is_entry"}),
            (
                "owner_without_code",
                {(12, 13): "=FRAME_OWNED_BY_CSTACK", (14, 99): "=FRAME_OWNED_BY_INTERPRETER"},
            ),
            ("owner_generator", since(11, "=FRAME_OWNED_BY_GENERATOR")),
            (
                "instruction_kind",
                {
                    (8, 9): "#InstructionKind::kByteIndex",
                    (10, 10): "#InstructionKind::kCodeUnitIndex",
                    (11, 99): "#InstructionKind::kCodePointer",
                },
            ),
        ],
    ),
    Struct(
        "frame_object",
        {
            (11, 13): "Include/internal/pycore_frame.h",
            (14, 99): "Include/internal/pycore_interpframe_structs.h",
        },
        "PyFrameObject",
        [("frame", since(11, "f_frame"))],
    ),
    Struct(
        "exception_item",
        "Include/cpython/pystate.h",
        "_PyErr_StackItem",
        [("size", "=sizeof(_PyErr_StackItem)"), ("previous", "previous_item")],
    ),
    Struct(
        "gc",
        {
            (8, 8): "Include/internal/pycore_pymem.h",
            (9, 13): "Include/internal/pycore_gc.h",
            (14, 99): "Include/internal/pycore_interp_structs.h",
        },
        "struct _gc_runtime_state",
        [
            ("head_size", WithGilOnly("=sizeof(PyGC_Head)")),
            ("generation_size", WithGilOnly("=sizeof(struct gc_generation)")),
            (
                "permanent",
                WithGilOnly(
                    "=offsetof(struct _gc_runtime_state, permanent_generation)"
                    " - offsetof(struct _gc_runtime_state, generations)"
                ),
            ),
        ],
    ),
    Struct(
        "stack_chunk",
        "Include/cpython/pystate.h",
        since(11, "_PyStackChunk"),
        [
            ("previous", since(11, "previous")),
            ("size", since(11, "size")),
            ("top", since(11, "top")),
            ("data", since(11, "data")),
        ],
    ),
    Struct(
        "code",
        {(8, 8): "Include/code.h", (9, 99): "Include/cpython/code.h"},
        "PyCodeObject",
        [
            ("size", {(8, 10): "=sizeof(PyCodeObject)", (11, 99): "co_code_adaptive"}),
            ("filename", "co_filename"),
            ("name", "co_name"),
            ("qualname", since(11, "co_qualname")),
            ("linetable", {(8, 9): "co_lnotab", (10, 99): "co_linetable"}),
            ("firstlineno", "co_firstlineno"),
            ("version", since(12, "co_version")),
            ("code_adaptive", since(11, "co_code_adaptive")),
            ("tlbc", FreeThreadedOnly(since(14, "co_tlbc"))),
            ("tlbc_entries", FreeThreadedOnly(since(14, "=offsetof(_PyCodeArray, entries)"))),
            ("co_code", until(10, "=offsetof(PyCodeObject, co_code)")),
            ("freevars", until(10, "=offsetof(PyCodeObject, co_freevars)")),
            ("localsplusnames", since(11, "=offsetof(PyCodeObject, co_localsplusnames)")),
            (
                "line_table_kind",
                {
                    (8, 9): "#LineTableKind::kLnotab",
                    (10, 10): "#LineTableKind::kLinetable",
                    (11, 99): "#LineTableKind::kLocations",
                },
            ),
        ],
    ),
    Struct(
        "object",
        "Include/object.h",
        "PyVarObject",
        [
            ("size", "=sizeof(PyObject)"),
            ("ob_type", "ob_base.ob_type"),
            ("ob_size", "ob_size"),
            ("ob_ref_local", FreeThreadedOnly(since(13, "ob_base.ob_ref_local"))),
            ("ob_ref_shared", FreeThreadedOnly(since(13, "ob_base.ob_ref_shared"))),
        ],
    ),
    Struct(
        "type",
        "Include/cpython/object.h",
        "PyHeapTypeObject",
        [
            ("size", "@cover"),
            ("tp_name", "ht_type.tp_name"),
            ("tp_basicsize", "ht_type.tp_basicsize"),
            ("tp_flags", "ht_type.tp_flags"),
            ("tp_dictoffset", "ht_type.tp_dictoffset"),
            ("tp_base", "=offsetof(PyTypeObject, tp_base)"),
            ("ht_cached_keys", "=offsetof(PyHeapTypeObject, ht_cached_keys)"),
        ],
    ),
    Struct(
        "bytes",
        {(8, 8): "Include/bytesobject.h", (9, 99): "Include/cpython/bytesobject.h"},
        "PyBytesObject",
        [("ob_size", "ob_base.ob_size"), ("ob_sval", "ob_sval")],
    ),
    Struct(
        "unicode",
        "Include/cpython/unicodeobject.h",
        "PyASCIIObject",
        [
            ("length", "length"),
            ("state", "state"),
            ("kind_shift", "=bit_shift(kind)"),
            ("kind_bits", "=bit_count(kind)"),
            ("compact_shift", "=bit_shift(compact)"),
            ("ascii_shift", "=bit_shift(ascii)"),
            ("ascii_data", "=sizeof(PyASCIIObject)"),
            ("compact_data", "=sizeof(PyCompactUnicodeObject)"),
            ("data_any", "=offsetof(PyUnicodeObject, data.any)"),
        ],
    ),
    Struct(
        "integer",
        {(8, 11): "Include/longintrepr.h", (12, 99): "Include/cpython/longintrepr.h"},
        "PyLongObject",
        [
            ("ob_size", until(11, "ob_base.ob_size")),
            ("lv_tag", since(12, "long_value.lv_tag")),
            ("ob_digit", {(8, 11): "ob_digit", (12, 99): "long_value.ob_digit"}),
            ("digit_bits", "=PyLong_SHIFT"),
            ("digit_bytes", "=sizeof(digit)"),
        ],
    ),
    Struct(
        "dict",
        {(8, 8): "Include/dictobject.h", (9, 99): "Include/cpython/dictobject.h"},
        "PyDictObject",
        [
            ("size", "=sizeof(PyDictObject)"),
            ("ma_used", "ma_used"),
            ("ma_keys", "ma_keys"),
            ("ma_values", "ma_values"),
        ],
    ),
    Struct(
        "dict_keys",
        {(8, 10): "Objects/dict-common.h", (11, 99): "Include/internal/pycore_dict.h"},
        "struct _dictkeysobject",
        [
            ("dk_size", until(10, "dk_size")),
            ("dk_log2_size", since(11, "dk_log2_size")),
            ("dk_log2_index_bytes", since(11, "dk_log2_index_bytes")),
            ("dk_kind", since(11, "dk_kind")),
            ("dk_nentries", "dk_nentries"),
            ("dk_indices", "=offsetof(struct _dictkeysobject, dk_indices)"),
            ("general_entry_size", "=sizeof(PyDictKeyEntry)"),
            ("general_entry_key", "=offsetof(PyDictKeyEntry, me_key)"),
            ("general_entry_value", "=offsetof(PyDictKeyEntry, me_value)"),
            ("unicode_entry_size", since(11, "=sizeof(PyDictUnicodeEntry)")),
            ("unicode_entry_key", since(11, "=offsetof(PyDictUnicodeEntry, me_key)")),
            ("unicode_entry_value", since(11, "=offsetof(PyDictUnicodeEntry, me_value)")),
        ],
    ),
    Struct(
        "instance",
        {
            (8, 10): "Objects/dict-common.h",
            (11, 99): "Include/internal/pycore_object.h, pycore_dict.h",
        },
        {(8, 10): "PyDictObject", (11, 99): "struct _dictvalues"},
        [
            (
                "kind",
                {
                    (8, 10): "#InstanceDictKind::kDictOffset",
                    (11, 11): "#InstanceDictKind::kManagedPreObject311",
                    (12, 12): "#InstanceDictKind::kManagedPreObject312",
                    (13, 13): "#InstanceDictKind::kInlineValues313",
                    (14, 99): "#InstanceDictKind::kInlineValues314",
                },
            ),
            (
                "managed_dict",
                {
                    (11, 11): "=(char *)_PyObject_ManagedDictPointer(anywhere()) - (char *)anywhere()",
                    (12, 12): "=(char *)_PyObject_DictOrValuesPointer(anywhere()) - (char *)anywhere()",
                    (13, 99): "=MANAGED_DICT_OFFSET",
                },
            ),
            (
                "managed_values",
                {(11, 11): "=(char *)_PyObject_ValuesPointer(anywhere()) - (char *)anywhere()"},
            ),
            ("managed_dict_flag", {(8, 10): "=0", (11, 99): "=Py_TPFLAGS_MANAGED_DICT"}),
            ("inline_values_flag", {(8, 12): "=0", (13, 99): "=Py_TPFLAGS_INLINE_VALUES"}),
            ("values_start", since(11, "values")),
            ("inline_capacity", since(13, "capacity")),
            ("inline_valid", since(13, "valid")),
        ],
    ),
    Struct(
        "module",
        {(8, 10): "Objects/moduleobject.c", (11, 99): "Include/internal/pycore_moduleobject.h"},
        "PyModuleObject",
        [("md_dict", "md_dict"), ("md_state", since(11, "md_state"))],
    ),
    Struct(
        "generator",
        {
            (8, 10): "Include/genobject.h",
            (11, 13): "Include/cpython/genobject.h",
            (14, 99): "Include/internal/pycore_interpframe_structs.h",
        },
        "PyGenObject",
        [
            ("frame", {(8, 10): "gi_frame", (11, 99): "gi_iframe"}),
            ("frame_is_inside", {(8, 10): "#false", (11, 99): "#true"}),
            ("state", since(11, "gi_frame_state")),
            (
                "awaiting_kind",
                {
                    (8, 10): "#AwaitingKind::kYieldFrom",
                    (11, 12): "#AwaitingKind::kResume",
                    (13, 99): "#AwaitingKind::kState",
                },
            ),
            ("created", {(10, 99): "=FRAME_CREATED"}),
            ("suspended", {(10, 99): "=FRAME_SUSPENDED"}),
            ("suspended_yield_from", since(13, "=FRAME_SUSPENDED_YIELD_FROM")),
            ("yield_from_locked", since(15, "=FRAME_SUSPENDED_YIELD_FROM_LOCKED")),
            ("executing", {(10, 99): "=FRAME_EXECUTING"}),
            ("yield_from", until(10, "=YIELD_FROM")),
            ("resume", {(11, 12): "=RESUME"}),
            ("resume_special", {(11, 11): "=RESUME_QUICK", (12, 12): "=INSTRUMENTED_RESUME"}),
            ("awaited_below_top", {(8, 14): "=1", (15, 99): "=2"}),
        ],
    ),
    Struct(
        "function",
        {(8, 8): "Include/funcobject.h", (9, 9): "Include/funcobject.h", (10, 99): "Include/cpython/funcobject.h"},
        "PyFunctionObject",
        [
            ("code", "func_code"),
            ("closure", "func_closure"),
            ("qualname", "func_qualname"),
        ],
    ),
    Struct("cell", "Include/cellobject.h", "PyCellObject", [("contents", "ob_ref")]),
    Struct(
        "method",
        {(8, 8): "Include/classobject.h", (9, 99): "Include/cpython/classobject.h"},
        "PyMethodObject",
        [("function", "im_func"), ("self", "im_self")],
    ),
    Struct(
        "builtin",
        {(8, 8): "Include/methodobject.h", (9, 99): "Include/cpython/methodobject.h"},
        "PyCFunctionObject",
        [("definition", "m_ml"), ("self", "m_self")],
    ),
    Struct("tuple", "Include/tupleobject.h", "PyTupleObject", [("items", "ob_item")]),
    Struct("list", "Include/listobject.h", "PyListObject", [("items", "ob_item")]),
    Struct(
        "set",
        "Include/setobject.h",
        "PySetObject",
        [
            ("mask", "mask"),
            ("table", "table"),
            ("entry_size", "=sizeof(setentry)"),
            ("entry_key", "=offsetof(setentry, key)"),
        ],
    ),
    Struct(
        "weak_reference",
        {(8, 10): "Include/weakrefobject.h", (11, 99): "Include/cpython/weakrefobject.h"},
        "PyWeakReference",
        [("object", "wr_object")],
    ),
    Struct(
        "task",
        "Modules/_asynciomodule.c",
        "TaskObj",
        [
            ("size", "=sizeof(TaskObj)"),
            ("future_size", "=sizeof(FutureObj)"),
            ("loop", "task_loop"),
            ("callback0", "task_callback0"),
            ("callbacks", "task_callbacks"),
            ("state", "task_state"),
            ("fut_waiter", "task_fut_waiter"),
            ("coro", "task_coro"),
            ("name", "task_name"),
            ("node", since(14, "task_node")),
        ],
    ),
]
