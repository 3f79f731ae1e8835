#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace echion::cpython {

/// An offset in bytes into a CPython structure, or a size in bytes.
using Offset = std::int32_t;

/// The structure has no such field in this version. A walker asks has(offset), never a version.
constexpr Offset kAbsent = -1;

/// Likewise of a field that is a value, of which -1 can be one.
constexpr std::int16_t kNoValue = INT16_MIN;

constexpr bool has(Offset offset) { return offset != kAbsent; }
/// The offset or size of a field that is there.
constexpr std::size_t at(Offset offset) { return static_cast<std::size_t>(offset); }

struct Version {
    std::uint8_t major = 0;
    std::uint8_t minor = 0;
    std::uint8_t micro = 0;
};

/// How a frame stores where it is in its code.
enum class InstructionKind : std::uint8_t {
    kByteIndex,      ///< f_lasti counts bytes (3.8, 3.9).
    kCodeUnitIndex,  ///< f_lasti counts two-byte code units (3.10).
    kCodePointer,    ///< prev_instr / instr_ptr points into co_code_adaptive (3.11 and later).
};

/// How a suspended frame states how far its value stack is filled.
enum class StackTopKind : std::uint8_t {
    kPointer,  ///< The place behind the last value (3.8, 3.9; 3.14 and later).
    kDepth,    ///< The number of values (3.10).
    kIndex,    ///< The same, counted from `localsplus` (3.11-3.13).
};

/// How a suspended generator shows that it waits for another object, by `await` or `yield from`.
enum class AwaitingKind : std::uint8_t {
    kYieldFrom,  ///< Its next instruction is YIELD_FROM (3.8-3.10).
    kResume,     ///< Its next instruction is a RESUME that says so (3.11, 3.12).
    kState,      ///< Its state says so (3.13 and later).
};

/// How co_linetable (co_lnotab) is encoded.
enum class LineTableKind : std::uint8_t {
    kLnotab,     ///< 3.8, 3.9: pairs of (byte delta, signed line delta).
    kLinetable,  ///< 3.10: PEP 626.
    kLocations,  ///< 3.11 and later: Objects/locations.md.
};

/// Which structure the runtime states its offsets in: see debug_offsets.h.
enum class DebugOffsetsKind : std::uint8_t { kNone, k313, k314, k315 };

// Each structure below is named after CPython's own; each field after CPython's field.

struct RuntimeLayout {         // _PyRuntimeState
    Offset size;               // enough bytes to cover the fields below
    Offset initialized;        // int: Py_Initialize() is done
    Offset finalizing;         // PyThreadState*: the thread that runs Py_Finalize()
    Offset interpreters_head;  // PyInterpreterState*
    Offset interpreters_main;  // PyInterpreterState*
    Offset main_thread;        // unsigned long: pthread of the main thread
    Offset ceval_gil;          // struct _gil_runtime_state, in place (3.8-3.11)
    Offset tstate_current;     // PyThreadState* that runs; null while none has the GIL (3.8-3.11)
    Offset gc_collecting;      // int (3.8 only; later it is in the interpreter)
    Offset gc_generations;     // struct gc_generation[3]; not covered by `size` (likewise)
    Offset debug_offsets;      // struct _Py_DebugOffsets, in place (3.13 and later)
    DebugOffsetsKind debug_offsets_kind;
};

struct InterpreterLayout {  // PyInterpreterState
    Offset size;            // enough bytes to cover the fields below
    Offset id;              // int64_t
    Offset next;            // PyInterpreterState*
    Offset threads_head;    // PyThreadState*
    Offset modules;         // PyObject*: sys.modules
    Offset ceval_gil;       // struct _gil_runtime_state* (3.12 and later)
    Offset gc_collecting;   // int (3.9 and later)
    Offset gc_generations;  // struct gc_generation[3]; not covered by `size` (3.9 and later, but
                            // not free-threaded)
    Offset next_version;    // uint32_t: of the next code object; not covered by `size` (3.13 and
                            // later)
    Offset stop_requester;  // PyThreadState* that has all others stopped, or has asked for it; not
                            // covered by `size` (free-threaded)
    Offset asyncio_tasks_head;  // struct llist_node: asyncio's tasks of threads that have ended;
                                // not covered by `size` (3.14 and later)
};

struct GilLayout {         // struct _gil_runtime_state
    Offset size;           // enough bytes to cover the fields below
    Offset last_holder;    // PyThreadState*
    Offset locked;         // int: 1 taken, 0 free, -1 not created yet
    Offset switch_number;  // unsigned long: times that last_holder changed
};

struct ThreadStateLayout {    // PyThreadState
    Offset size;              // enough bytes to cover the fields below
    Offset prev;              // PyThreadState*
    Offset next;              // PyThreadState*
    Offset interp;            // PyInterpreterState*
    Offset frame;             // PyFrameObject* (3.8-3.10), _PyInterpreterFrame* (3.13 and later)
    Offset cframe;            // _PyCFrame* (3.11, 3.12)
    Offset thread_id;         // unsigned long: pthread_t
    Offset native_thread_id;  // unsigned long: gettid() (3.11 and later)
    Offset id;                // uint64_t: unique in its interpreter
    Offset datastack_chunk;   // _PyStackChunk* (3.11 and later)
    Offset datastack_top;     // PyObject** (3.11 and later)
    Offset state;             // int (free-threaded): _Py_THREAD_ATTACHED while it may run Python
    // Not covered by `size`:
    Offset dict;                  // PyObject* (dict): PyThreadState_GetDict()
    Offset exc_state;             // _PyErr_StackItem, in place
    Offset asyncio_running_loop;  // PyObject* (3.13 and later)
    Offset asyncio_running_task;  // PyObject* (3.14 and later)
    Offset asyncio_tasks_head;    // struct llist_node: asyncio's tasks (3.14 and later)
};

struct CFrameLayout {      // _PyCFrame (3.11, 3.12)
    Offset current_frame;  // _PyInterpreterFrame*
};

struct FrameLayout {        // PyFrameObject (3.8-3.10), _PyInterpreterFrame (3.11 and later)
    Offset size;            // enough bytes to cover the fields below
    Offset previous;        // f_back / previous
    Offset code;            // PyCodeObject*: f_code / f_executable
    std::uint8_t code_tag;  // bits of that which are no part of the address (3.14 and later:
                            // _PyStackRef)
    Offset instruction;     // f_lasti (int) / prev_instr / instr_ptr (pointer)
    Offset owner;           // char (3.11 and later): enum _frameowner
    // Of a frame that is suspended; not covered by `size`:
    Offset valuestack;           // PyObject**: the value stack (3.10)
    Offset stacktop;             // how far the value stack is filled: f_stacktop (3.8, 3.9),
                                 // f_stackdepth (3.10), stacktop, stackpointer (3.14 and later)
    StackTopKind stacktop_kind;  // what that is
    Offset localsplus;           // PyObject*[]: variables, then the value stack (3.11 and later)
    Offset frame_object;         // PyFrameObject*, or null (3.11 and later)
    Offset tlbc_index;  // int32_t (free-threaded, 3.14 and later): which copy of the bytecode it
                        // runs; 0: that in the code object
    Offset is_entry;    // bool (3.11): the first frame of its C-level evaluation loop
    std::int16_t owner_without_code;  // least value of `owner` for a frame without Python code: the
                                      // entry frame of a C-level evaluation loop, the base frame
                                      // (3.12 and later); kAbsent elsewhere
    std::int16_t owner_generator;  // value of `owner` for a generator's or coroutine's frame (3.11
                                   // and later)
    InstructionKind instruction_kind;
};

struct FrameObjectLayout {  // PyFrameObject (3.11 and later)
    Offset frame;           // _PyInterpreterFrame*
};

struct ExceptionItemLayout {  // _PyErr_StackItem
    Offset size;              // sizeof(_PyErr_StackItem)
    Offset previous;          // _PyErr_StackItem*
};

struct GcLayout {            // struct _gc_runtime_state (not in free-threaded builds)
    Offset head_size;        // sizeof(PyGC_Head): two words, _gc_next and _gc_prev
    Offset generation_size;  // sizeof(struct gc_generation), which begins with a PyGC_Head
    Offset permanent;        // struct gc_generation: from `generations` on
};

struct StackChunkLayout {  // _PyStackChunk (3.11 and later)
    Offset previous;       // _PyStackChunk*
    Offset size;           // size_t: bytes of the chunk, this header included
    Offset top;            // size_t: in PyObject*, valid when a newer chunk is in use
    Offset data;           // PyObject*[]
};

struct CodeLayout {        // PyCodeObject
    Offset size;           // bytes of the fixed part, up to the code itself
    Offset filename;       // PyObject* (str)
    Offset name;           // PyObject* (str)
    Offset qualname;       // PyObject* (str) (3.11 and later)
    Offset linetable;      // PyObject* (bytes): co_lnotab / co_linetable
    Offset firstlineno;    // int
    Offset version;        // uint32_t: another one for each code object (3.12 and later)
    Offset code_adaptive;  // char[]: the instructions, in place (3.11 and later)
    Offset tlbc;  // _PyCodeArray*: the copies of the bytecode (free-threaded, 3.14 and later)
    Offset tlbc_entries;  // char*[]: in the _PyCodeArray, behind their number (Py_ssize_t)
    // Not covered by `size`:
    Offset co_code;          // PyObject* (bytes): the instructions (3.8-3.10)
    Offset freevars;         // PyObject* (tuple): names of free variables (3.8-3.10)
    Offset localsplusnames;  // PyObject* (tuple): names of all variables, the free ones last (3.11
                             // and later)
    LineTableKind line_table_kind;
};

struct ObjectLayout {      // PyObject, PyVarObject
    Offset size;           // sizeof(PyObject)
    Offset ob_type;        // PyTypeObject*
    Offset ob_size;        // Py_ssize_t, of a PyVarObject
    Offset ob_ref_local;   // uint32_t (free-threaded): references that its owner counts
    Offset ob_ref_shared;  // Py_ssize_t (free-threaded): those that all count, above two flags
};

struct TypeLayout {        // PyTypeObject, PyHeapTypeObject
    Offset size;           // enough bytes to cover the tp_ fields below
    Offset tp_name;        // const char*
    Offset tp_basicsize;   // Py_ssize_t
    Offset tp_flags;       // unsigned long
    Offset tp_dictoffset;  // Py_ssize_t
    // Not covered by `size`:
    Offset tp_base;         // PyTypeObject*
    Offset ht_cached_keys;  // PyDictKeysObject* of a heap type
};

struct BytesLayout {  // PyBytesObject
    Offset ob_size;   // Py_ssize_t
    Offset ob_sval;   // char[]
};

struct UnicodeLayout {  // PyASCIIObject, PyCompactUnicodeObject, PyUnicodeObject
    Offset length;      // Py_ssize_t, in code points
    Offset state;       // uint32_t bit field: kind, compact, ascii (bit places below)
    std::uint8_t kind_shift, kind_bits;
    std::uint8_t compact_shift;
    std::uint8_t ascii_shift;
    Offset ascii_data;    // sizeof(PyASCIIObject): data of an ASCII string
    Offset compact_data;  // sizeof(PyCompactUnicodeObject): data of the other compact strings
    Offset data_any;      // void*: data of a string that is not compact
};

struct IntegerLayout {         // PyLongObject
    Offset ob_size;            // Py_ssize_t (3.8-3.11): number of digits, negative below zero
    Offset lv_tag;             // uintptr_t (3.12 and later): digits << 3, sign in the low bits
    Offset ob_digit;           // digit[], the least significant first
    std::uint8_t digit_bits;   // used bits of a digit: 30, or 15 (32-bit builds before 3.12)
    std::uint8_t digit_bytes;  // 4 or 2
};

struct DictLayout {    // PyDictObject
    Offset size;       // sizeof(PyDictObject)
    Offset ma_used;    // Py_ssize_t
    Offset ma_keys;    // PyDictKeysObject*
    Offset ma_values;  // values of a split table, or null
};

struct DictKeysLayout {          // PyDictKeysObject
    Offset dk_size;              // Py_ssize_t: slots of the index table (3.8-3.10)
    Offset dk_log2_size;         // uint8_t (3.11 and later)
    Offset dk_log2_index_bytes;  // uint8_t (3.11 and later)
    Offset dk_kind;              // uint8_t (3.11 and later): 0 general, 1 unicode, 2 split
    Offset dk_nentries;          // Py_ssize_t
    Offset dk_indices;           // char[]: the index table, then the entries
    Offset general_entry_size;   // sizeof(PyDictKeyEntry)
    Offset general_entry_key;
    Offset general_entry_value;
    Offset unicode_entry_size;  // sizeof(PyDictUnicodeEntry) (3.11 and later)
    Offset unicode_entry_key;
    Offset unicode_entry_value;
};

/// Where an instance of a Python class keeps its attributes.
enum class InstanceDictKind : std::uint8_t {
    kDictOffset,           ///< A dict at tp_dictoffset (3.8-3.10).
    kManagedPreObject311,  ///< Values pointer at -4 words, dict pointer at -3 words (3.11).
    kManagedPreObject312,  ///< One word at -3: dict or tagged values (3.12).
    kInlineValues313,      ///< Dict pointer at -3 words; values after a PyObject (3.13).
    kInlineValues314,      ///< The same; values at tp_basicsize (3.14 and later).
};

struct InstanceLayout {
    InstanceDictKind kind;
    Offset managed_dict;    // (signed, from the object) of the dict or dict-or-values word
    Offset managed_values;  // (signed) of the values pointer (3.11)
    std::uint32_t managed_dict_flag;   // Py_TPFLAGS_MANAGED_DICT, 0 where it does not exist
    std::uint32_t inline_values_flag;  // Py_TPFLAGS_INLINE_VALUES, 0 where it does not exist
    Offset values_start;               // offset of the first value in a PyDictValues
    Offset inline_capacity;  // uint8_t: offset of `capacity` in a PyDictValues (3.13 and later)
    Offset inline_valid;     // uint8_t: offset of `valid` in a PyDictValues (3.13 and later)
};

struct ModuleLayout {  // PyModuleObject
    Offset md_dict;    // PyObject* (dict)
    Offset md_state;   // void*: what a module written in C keeps (3.11 and later)
};

struct GeneratorLayout {  // PyGenObject, PyCoroObject, PyAsyncGenObject
    Offset frame;  // PyFrameObject* (3.8-3.10), _PyInterpreterFrame in place (3.11 and later)
    bool frame_is_inside;
    Offset state;  // int8_t: one of the values below (3.11 and later)
    AwaitingKind awaiting_kind;
    // The states, where there is `state`; an absent one is a value that no generator has.
    std::int16_t created, suspended, suspended_yield_from, yield_from_locked, executing;
    std::int16_t yield_from, resume, resume_special;  // the instructions, where they tell
    std::uint8_t awaited_below_top;  // where that object is: so many places below the top
};

struct FunctionLayout {  // PyFunctionObject
    Offset code;         // PyCodeObject*
    Offset closure;      // PyObject* (tuple of cells), or null
    Offset qualname;     // PyObject* (str)
};

struct CellLayout {   // PyCellObject
    Offset contents;  // PyObject*, or null
};

struct MethodLayout {  // PyMethodObject
    Offset function;   // PyObject*
    Offset self;       // PyObject*
};

struct BuiltinLayout {  // PyCFunctionObject
    Offset definition;  // PyMethodDef*, which begins with a const char*: the name
    Offset self;        // PyObject*
};

struct TupleLayout {  // PyTupleObject
    Offset items;     // PyObject*[]
};

struct ListLayout {  // PyListObject
    Offset items;    // PyObject**
};

struct SetLayout {      // PySetObject
    Offset mask;        // Py_ssize_t: slots of the table, less one
    Offset table;       // setentry*
    Offset entry_size;  // sizeof(setentry)
    Offset entry_key;
};

struct WeakReferenceLayout {  // PyWeakReference
    Offset object;            // PyObject*; None when it has gone
};

struct TaskLayout {      // TaskObj; FutureObj up to its own size
    Offset size;         // sizeof(TaskObj)
    Offset future_size;  // sizeof(FutureObj)
    Offset loop;         // PyObject*
    Offset callback0;    // PyObject*: the first callback, or null
    Offset callbacks;    // PyObject* (list of tuples): the others, or null
    Offset state;        // int: 0 while it is pending
    Offset fut_waiter;   // PyObject*: what it waits for
    Offset coro;         // PyObject*
    Offset name;         // PyObject* (str, or int from 3.12 on)
    Offset node;         // struct llist_node (3.14 and later)
};

/// What Echion has to know of one CPython minor version in one ABI. Data only: scripts/
/// gen_layouts.py writes the rows from the interpreters' own headers.
struct Layout {
    std::uint8_t major;
    std::uint8_t minor;
    std::uint8_t pointer_bytes;  // 8: LP64, 4: ILP32
    bool free_threaded;          // no GIL: each thread may change its stack at any moment
    RuntimeLayout runtime;
    InterpreterLayout interpreter;
    GilLayout gil;
    ThreadStateLayout thread_state;
    CFrameLayout cframe;
    FrameLayout frame;
    FrameObjectLayout frame_object;
    ExceptionItemLayout exception_item;
    GcLayout gc;
    StackChunkLayout stack_chunk;
    CodeLayout code;
    ObjectLayout object;
    TypeLayout type;
    BytesLayout bytes;
    UnicodeLayout unicode;
    IntegerLayout integer;
    DictLayout dict;
    DictKeysLayout dict_keys;
    InstanceLayout instance;
    ModuleLayout module;
    GeneratorLayout generator;
    FunctionLayout function;
    CellLayout cell;
    MethodLayout method;
    BuiltinLayout builtin;
    TupleLayout tuple;
    ListLayout list;
    SetLayout set;
    WeakReferenceLayout weak_reference;
    TaskLayout task;
};

/// The row of a minor version in this build's ABI, or null: an unknown version is an error, never
/// the nearest match. The row has static storage. Any thread, signal-safe.
const Layout* find_layout(Version version);
/// The same of a free-threaded build (Py_GIL_DISABLED: 3.13 and later), whose structures differ.
const Layout* find_free_threaded_layout(Version version);

/// All rows of this build's ABI that are of builds with a GIL, oldest first, for messages and
/// tests.
std::span<const Layout> known_layouts();
/// Likewise of free-threaded builds.
std::span<const Layout> free_threaded_layouts();

/// The rows of one ABI, 8 (LP64) or 4 (ILP32) bytes a pointer, oldest first; empty for another
/// width. For messages ("a 32-bit target") and tests; a walker uses find_layout().
std::span<const Layout> layouts_of_abi(int pointer_bytes);

}  // namespace echion::cpython
