#!/usr/bin/env python3
"""Writes (or checks) the rows of userspace/cpython/layout.h from CPython's own headers.

For each interpreter and each ABI (LP64, ILP32) a small C program is compiled against the
interpreter's installed headers; it prints an offsetof or sizeof for every field, and finds the
places of bit fields by setting them. The numbers become designated initialisers in
userspace/cpython/layouts_lp64.inc and layouts_ilp32.inc.

    scripts/gen_layouts.py                      rows of all pyenv interpreters found
    scripts/gen_layouts.py --python PATH ...    rows of these interpreters; the others stay
    scripts/gen_layouts.py --check              compare with what is committed, write nothing

Needs gcc with -m32 support (Debian: gcc-multilib). Python 3.8 or later, standard library only.
Exit status: 0 done or equal, 1 different or failed, 77 (--check) no interpreter to compare with.
"""

import argparse
import glob
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "userspace" / "cpython"
SUPPORTED = [(3, minor) for minor in range(8, 14)]
ABIS = {"lp64": "-m64", "ilp32": "-m32"}
ABSENT = "kAbsent"
WIDTH = 100


def since(minor, text):
    """The field exists from 3.`minor` on."""
    return {(minor, 99): text}


def until(minor, text):
    """The field exists up to and including 3.`minor`."""
    return {(0, minor): text}


class Struct:
    """One structure of layout.h.

    member   its name in Layout
    header   where CPython declares it: {(first minor, last minor): file}
    c_type   its C type, likewise
    fields   (field of layout.h, C member path by version); a path may also be a tagged
             expression, see `expression`. A version that no range covers: the field is absent.
    """

    def __init__(self, member, header, c_type, fields):
        self.member = member
        self.header = header if isinstance(header, dict) else {(0, 99): header}
        self.c_type = c_type if isinstance(c_type, dict) else {(0, 99): c_type}
        self.fields = fields


def pick(choices, minor):
    """The choice for 3.`minor`, or None."""
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
        {(8, 8): "Include/internal/pycore_pystate.h", (9, 99): "Include/internal/pycore_runtime.h"},
        "_PyRuntimeState",
        [
            ("size", "@cover"),
            ("initialized", "initialized"),
            ("finalizing", {(8, 8): "finalizing", (9, 99): "_finalizing"}),
            ("interpreters_head", "interpreters.head"),
            ("interpreters_main", "interpreters.main"),
            ("main_thread", "main_thread"),
            ("ceval_gil", until(11, "ceval.gil")),
            ("gc_collecting", until(8, "gc.collecting")),
            ("debug_offsets", since(13, "debug_offsets")),
        ],
    ),
    Struct(
        "interpreter",
        {(8, 8): "Include/internal/pycore_pystate.h", (9, 99): "Include/internal/pycore_interp.h"},
        "PyInterpreterState",
        [
            ("size", "@cover"),
            ("id", "id"),
            ("next", "next"),
            ("threads_head", {(8, 10): "tstate_head", (11, 99): "threads.head"}),
            ("modules", {(8, 11): "modules", (12, 99): "imports.modules"}),
            ("ceval_gil", since(12, "ceval.gil")),
            ("gc_collecting", since(9, "gc.collecting")),
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
            (11, 99): "Include/internal/pycore_frame.h",
        },
        {(8, 10): "PyFrameObject", (11, 99): "_PyInterpreterFrame"},
        [
            ("size", "@cover"),
            ("previous", {(8, 10): "f_back", (11, 99): "previous"}),
            ("code", {(8, 12): "f_code", (13, 99): "f_executable"}),
            (
                "instruction",
                {(8, 10): "f_lasti", (11, 12): "prev_instr", (13, 99): "instr_ptr"},
            ),
            ("owner", since(11, "owner")),
            ("is_entry", {(11, 11): "is_entry"}),
            ("owner_cstack", since(12, "=FRAME_OWNED_BY_CSTACK")),
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
            ("code_adaptive", since(11, "co_code_adaptive")),
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
        [("size", "=sizeof(PyObject)"), ("ob_type", "ob_base.ob_type"), ("ob_size", "ob_size")],
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
                },
            ),
            (
                "managed_dict",
                {
                    (11, 11): "=(char *)_PyObject_ManagedDictPointer(anywhere()) - (char *)anywhere()",
                    (12, 12): "=(char *)_PyObject_DictOrValuesPointer(anywhere()) - (char *)anywhere()",
                    (13, 13): "=MANAGED_DICT_OFFSET",
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
        [("md_dict", "md_dict")],
    ),
]

# 3.8 to 3.10 keep these structures in source files that are not installed. Declared here from the
# CPython sources of those versions (Objects/dict-common.h, Objects/moduleobject.c); the tests that
# read dicts and modules of running interpreters prove them.
NOT_INSTALLED_BEFORE_311 = """
typedef struct {
    Py_hash_t me_hash;
    PyObject *me_key;
    PyObject *me_value;
} PyDictKeyEntry;
struct _dictkeysobject {
    Py_ssize_t dk_refcnt;
    Py_ssize_t dk_size;
    void *dk_lookup;
    Py_ssize_t dk_usable;
    Py_ssize_t dk_nentries;
    char dk_indices[];
};
typedef struct {
    PyObject_HEAD
    PyObject *md_dict;
} PyModuleObject;
"""

PROBE_HELPERS = """
#define bit_mask(field)                                                              \\
    ({                                                                               \\
        union { PyASCIIObject object; unsigned char bytes[sizeof(PyASCIIObject)]; } u; \\
        unsigned int word;                                                           \\
        memset(&u, 0, sizeof(u));                                                    \\
        u.object.state.field = ~0u;                                                  \\
        memcpy(&word, u.bytes + offsetof(PyASCIIObject, state), sizeof(word));       \\
        word;                                                                        \\
    })
#define bit_shift(field) __builtin_ctz(bit_mask(field))
#define bit_count(field) __builtin_popcount(bit_mask(field))
static inline void *anywhere(void) { static long long room[16]; return &room[8]; }
#define OFFSET(name, type, member)                                     \\
    printf("%s %ld %ld\\n", name, (long)offsetof(type, member),         \\
           (long)(offsetof(type, member) + sizeof(((type *)0)->member)))
#define VALUE(name, value) printf("%s %ld 0\\n", name, (long)(value))
"""

# What of an installed pyconfig.h (made for LP64) is different under ILP32, taken from the compiler.
ILP32_SHIM = """
#include <pyconfig.h>
#undef SIZEOF_LONG
#define SIZEOF_LONG __SIZEOF_LONG__
#undef SIZEOF_VOID_P
#define SIZEOF_VOID_P __SIZEOF_POINTER__
#undef SIZEOF_SIZE_T
#define SIZEOF_SIZE_T __SIZEOF_SIZE_T__
#undef SIZEOF_UINTPTR_T
#define SIZEOF_UINTPTR_T __SIZEOF_POINTER__
#undef SIZEOF_PTHREAD_T
#define SIZEOF_PTHREAD_T __SIZEOF_LONG__
#undef SIZEOF_TIME_T
#define SIZEOF_TIME_T __SIZEOF_LONG__
#undef SIZEOF_LONG_DOUBLE
#define SIZEOF_LONG_DOUBLE __SIZEOF_LONG_DOUBLE__
#undef ALIGNOF_LONG
#define ALIGNOF_LONG 4
#undef ALIGNOF_SIZE_T
#define ALIGNOF_SIZE_T 4
#undef HAVE_GCC_UINT128_T
#undef HAVE_GCC_ASM_FOR_X64
"""

INCLUDES = {
    8: ["frameobject.h", "longintrepr.h", "internal/pycore_pystate.h", "internal/pycore_gil.h"],
    9: [
        "frameobject.h",
        "longintrepr.h",
        "internal/pycore_interp.h",
        "internal/pycore_runtime.h",
        "internal/pycore_gil.h",
    ],
    11: [
        "internal/pycore_interp.h",
        "internal/pycore_runtime.h",
        "internal/pycore_frame.h",
        "internal/pycore_dict.h",
        "internal/pycore_object.h",
        "internal/pycore_moduleobject.h",
        "internal/pycore_gil.h",
    ],
}


def includes_for(minor):
    best = max(first for first in INCLUDES if first <= minor)
    return INCLUDES[best]


class Interpreter:
    """What the probe needs to know of one python3 executable."""

    QUERY = (
        "import json, sys, sysconfig; print(json.dumps(["
        "list(sys.version_info[:3]), sysconfig.get_path('include'),"
        " sysconfig.get_config_var('Py_GIL_DISABLED') or 0, hasattr(sys, 'gettotalrefcount')]))"
    )

    def __init__(self, path):
        self.path = path
        out = subprocess.run(
            [path, "-c", self.QUERY], check=True, stdout=subprocess.PIPE, universal_newlines=True
        ).stdout
        version, include, free_threaded, debug = json.loads(out)
        self.version = tuple(version)
        self.include = pathlib.Path(include)
        self.plain = not free_threaded and not debug

    @property
    def minor(self):
        return self.version[1]

    def tag(self):
        return "v%d.%d.%d" % self.version

    def why_not(self, abi):
        """The reason why this interpreter cannot give the row of `abi`, or None."""
        if self.version[:2] not in SUPPORTED:
            return "not a supported version"
        if not self.plain:
            return "a free-threaded or debug build"
        if not (self.include / "internal").is_dir():
            return "its headers are not installed"
        if abi == "ilp32":
            config = (self.include / "pyconfig.h").read_text()
            if "Py_PYCONFIG_H" not in config:
                return "its pyconfig.h only forwards to that of an architecture"
        return None


def probe_source(interpreter):
    minor = interpreter.minor
    lines = ["#define Py_BUILD_CORE 1", "#include <Python.h>"]
    lines += ["#include <stddef.h>", "#include <stdio.h>", "#include <string.h>"]
    lines += ['#include "%s"' % header for header in includes_for(minor)]
    if minor < 11:
        lines.append(NOT_INSTALLED_BEFORE_311)
    lines += [PROBE_HELPERS, "int main(void) {"]
    for struct in STRUCTS:
        c_type = pick(struct.c_type, minor)
        for field, by_version in struct.fields:
            text = pick(by_version, minor)
            name = "%s.%s" % (struct.member, field)
            if text is None or text[0] in "@#":
                continue
            if text[0] == "=":
                lines.append('VALUE("%s", %s);' % (name, text[1:]))
            else:
                lines.append('OFFSET("%s", %s, %s);' % (name, c_type, text))
    lines.append("return 0; }")
    return "\n".join(lines)


def run_probe(interpreter, abi):
    """{"struct.field": (value, end of the field)} for what the probe can print."""
    with tempfile.TemporaryDirectory(prefix="layouts") as folder:
        source = os.path.join(folder, "probe.c")
        program = os.path.join(folder, "probe")
        pathlib.Path(source).write_text(probe_source(interpreter))
        command = ["gcc", ABIS[abi], "-w", "-O1", "-DNDEBUG", "-I", str(interpreter.include)]
        command += ["-I", str(interpreter.include / "internal")]
        if abi == "ilp32":
            shim = os.path.join(folder, "shim.h")
            pathlib.Path(shim).write_text(ILP32_SHIM)
            # The installed pyconfig.h has an include guard: read first, it is then overridden here
            # and not read again by Python.h.
            command += ["-include", shim, "-D_FILE_OFFSET_BITS=64"]
        subprocess.run(command + [source, "-o", program], check=True)
        out = subprocess.run(
            [program], check=True, stdout=subprocess.PIPE, universal_newlines=True
        ).stdout
    values = {}
    for line in out.splitlines():
        name, value, end = line.split()
        values[name] = (int(value), int(end))
    return values


def wrap(pieces, indent):
    """Joins the pieces with ", " into lines of at most WIDTH columns."""
    lines, line = [], ""
    for piece in pieces:
        candidate = piece if not line else line + " " + piece
        if line and len(indent) + len(candidate) > WIDTH:
            lines.append(indent + line)
            candidate = piece
        line = candidate
    lines.append(indent + line)
    return lines


def row_text(interpreter, abi):
    """The row as C++ text."""
    minor = interpreter.minor
    values = run_probe(interpreter, abi)
    lines = ["// CPython %s" % interpreter.tag(), "{"]
    lines.append(
        "    .major = %d, .minor = %d, .pointer_bytes = %d,"
        % (interpreter.version[0], minor, 8 if abi == "lp64" else 4)
    )
    for struct in STRUCTS:
        cover = max(
            [end for name, (_, end) in values.items() if name.split(".")[0] == struct.member] + [0]
        )
        if struct.member == "type":
            # ht_cached_keys is printed as a value: the type's own fields are read far more often.
            cover = max(values["type." + f][1] for f in ("tp_flags", "tp_dictoffset"))
        pieces = []
        for field, by_version in struct.fields:
            text = pick(by_version, minor)
            if text is None:
                shown = ABSENT
            elif text == "@cover":
                shown = str(cover)
            elif text[0] == "#":
                shown = text[1:]
            else:
                shown = str(values["%s.%s" % (struct.member, field)][0])
            pieces.append(".%s = %s," % (field, shown))
        if any(pick(by_version, minor) is not None for _, by_version in struct.fields):
            lines.append("    // %s" % pick(struct.header, minor))
        lines.append("    .%s = {" % struct.member)
        lines += wrap(pieces, " " * 8)
        lines.append("    },")
    lines.append("},")
    return "\n".join(lines) + "\n"


MARKER = re.compile(r"^// ---- (3\.\d+) ----\n", re.MULTILINE)


def file_of(abi):
    return FOLDER / ("layouts_%s.inc" % abi)


def read_rows(abi):
    """{minor: text} of the committed file."""
    path = file_of(abi)
    if not path.exists():
        return {}
    parts = MARKER.split(path.read_text())
    return {
        int(parts[i].split(".")[1]): parts[i + 1].strip() + "\n" for i in range(1, len(parts), 2)
    }


def write_rows(abi, rows):
    text = (
        "// Generated by scripts/gen_layouts.py from the interpreters' own headers; do not edit.\n"
        "// To regenerate: scripts/gen_layouts.py (see docs/adding-a-cpython-version.md).\n"
        "// clang-format off\n"
    )
    for minor in sorted(rows):
        text += "\n// ---- 3.%d ----\n%s" % (minor, rows[minor])
    file_of(abi).write_text(text)


def without_tag(text):
    """The row without the comment that names the exact interpreter it came from."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("// CPython v"))


def default_interpreters():
    versions = os.path.join(os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv")), "versions")
    found = sorted(glob.glob(os.path.join(versions, "3.*", "bin", "python3")))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", nargs="+", default=None, metavar="PATH")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()

    paths = arguments.python or default_interpreters()
    if arguments.check and arguments.python is None:
        paths.append("/usr/bin/python3")
    failed = False
    seen = set()
    for abi in ABIS:
        rows = read_rows(abi)
        fresh = {}
        for path in paths:
            if not os.path.exists(path):
                continue
            interpreter = Interpreter(path)
            reason = interpreter.why_not(abi)
            if reason:
                print("%s (%s, %s): skipped, %s" % (path, interpreter.tag(), abi, reason))
                continue
            try:
                text = row_text(interpreter, abi)
            except subprocess.CalledProcessError as error:
                # The compiler has said on standard error which field it does not know.
                print("%s (%s, %s): the probe failed: %s"
                      % (path, interpreter.tag(), abi, os.path.basename(error.cmd[0])))
                failed = True
                continue
            minor = interpreter.minor
            if arguments.check:
                same = minor in rows and without_tag(rows[minor]) == without_tag(text.strip())
                print("%s (%s, %s): %s" % (path, interpreter.tag(), abi, "same" if same else "DIFFERENT"))
                if not same:
                    print(text)
                    failed = True
            elif minor in fresh and without_tag(fresh[minor]) != without_tag(text):
                print("%s (%s, %s): differs from another 3.%d" % (path, interpreter.tag(), abi, minor))
                failed = True
            else:
                fresh[minor] = text
            seen.add(minor)
        if not arguments.check and not failed:
            rows.update(fresh)
            write_rows(abi, rows)
            print("%s: rows of %s" % (file_of(abi), ", ".join("3.%d" % m for m in sorted(rows))))
    missing = [m for _, m in SUPPORTED if m not in seen]
    if missing:
        print("not present here: " + ", ".join("3.%d" % m for m in missing))
    if arguments.check and not seen:
        return 77
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
