"""Asks the compiler where an interpreter's own headers put the fields of layout_fields.py.

A small C program is compiled against the headers and run; it prints an offsetof or sizeof for every
field, and finds the places of bit fields by setting them.
"""

import json
import os
import pathlib
import subprocess
import tempfile

from layout_fields import STRUCTS, SUPPORTED, pick

# The sets of rows, each of an ABI; the last one is of builds without a GIL, whose structures differ.
ABIS = {"lp64": "-m64", "ilp32": "-m32", "lp64t": "-m64"}

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

# No version installs this one (Modules/_asynciomodule.c). From 3.14 on the module states some of
# its offsets itself, in its section .AsyncioDebug, which a test compares with.
FUTURE_HEAD = """
#define FUTURE_HEAD(prefix)                     \\
    PyObject_HEAD                               \\
    PyObject *prefix##_loop;                    \\
    PyObject *prefix##_callback0;               \\
    PyObject *prefix##_context0;                \\
    PyObject *prefix##_callbacks;               \\
    PyObject *prefix##_exception;               \\
%s
typedef struct { FUTURE_HEAD(fut) } FutureObj;
typedef struct {
    FUTURE_HEAD(task)
%s
    PyObject *task_fut_waiter;
    PyObject *task_coro;
    PyObject *task_name;
    PyObject *task_context;
%s
} TaskObj;
"""
_BITS = "unsigned prefix##_log_tb : 1; unsigned prefix##_blocking : 1;"
_TASK_BITS = "unsigned task_must_cancel : 1; unsigned task_log_destroy_pending : 1; int task_num_cancels_requested;"
FUTURE_FIELDS = {
    # (first minor, last minor): (rest of a future's head, what a task has before and behind the rest)
    (8, 8): (
        ["result", "source_tb", "int state", "int log_tb", "int blocking", "dict", "weakreflist"],
        "",
        "int task_must_cancel; int task_log_destroy_pending;",
    ),
    (9, 9): (
        ["result", "source_tb", "cancel_msg", "int state", "int log_tb", "int blocking", "dict",
         "weakreflist", "exc_type", "exc_value", "exc_traceback", "previous_item"],
        "",
        "int task_must_cancel; int task_log_destroy_pending;",
    ),
    (10, 10): (
        ["exception_tb", "result", "source_tb", "cancel_msg", "int state", "int log_tb", "int blocking",
         "dict", "weakreflist", "exc_type", "exc_value", "exc_traceback", "previous_item"],
        "",
        "int task_must_cancel; int task_log_destroy_pending;",
    ),
    (11, 12): (
        ["exception_tb", "result", "source_tb", "cancel_msg", "int state", "int log_tb", "int blocking",
         "dict", "weakreflist", "cancelled_exc"],
        "",
        "int task_must_cancel; int task_log_destroy_pending; int task_num_cancels_requested;",
    ),
    (13, 13): (
        ["exception_tb", "result", "source_tb", "cancel_msg", "cancelled_exc", "int state", _BITS],
        _TASK_BITS,
        "",
    ),
    (14, 99): (
        ["exception_tb", "result", "source_tb", "cancel_msg", "cancelled_exc", "awaited_by", "int state",
         "char is_task", "char awaited_by_is_set", _BITS],
        _TASK_BITS,
        "struct llist_node task_node;\n#ifdef Py_GIL_DISABLED\n    uintptr_t task_tid;\n#endif",
    ),
}


def future_structs(minor):
    """The C declarations of a future and a task."""
    head, before, behind = pick(FUTURE_FIELDS, minor)
    lines = []
    for field in head:
        if ";" in field:
            lines.append(field)
        elif " " in field:
            c_type, name = field.split()
            lines.append("%s prefix##_%s;" % (c_type, name))
        else:
            lines.append("void *prefix##_%s;" % field)
    return FUTURE_HEAD % (" \\\n".join("    " + line for line in lines) + "\n", before, behind)


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
INCLUDES[13] = [*INCLUDES[11], "internal/pycore_tstate.h"]
INCLUDES[14] = [*INCLUDES[13], "internal/pycore_interpframe_structs.h"]


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
        self.free_threaded = bool(free_threaded)
        self.debug = debug

    @property
    def minor(self):
        return self.version[1]

    def tag(self):
        return "v%d.%d.%d" % self.version

    def why_not(self, abi):
        """The reason why this interpreter cannot give the row of `abi`, or None."""
        if self.version[:2] not in SUPPORTED:
            return "not a supported version"
        if self.debug:
            return "a debug build"
        if self.free_threaded != abi.endswith("t"):
            return "a free-threaded build" if self.free_threaded else "a build with a GIL"
        if not (self.include / "internal").is_dir():
            return "its headers are not installed"
        if self.config() is None:
            return "its pyconfig.h is not installed"
        return None

    def config(self):
        """Its pyconfig.h; where that only forwards to those of architectures (Debian), the one that
        is installed, or None."""
        own = self.include / "pyconfig.h"
        if "Py_PYCONFIG_H" in own.read_text():
            return own
        others = self.include.parent.glob("*-linux-gnu/%s/pyconfig.h" % self.include.name)
        return next(others, None)


def probe_source(interpreter):
    minor = interpreter.minor
    lines = ["#define Py_BUILD_CORE 1", "#include <Python.h>"]
    lines += ["#include <stddef.h>", "#include <stdio.h>", "#include <string.h>", "#include <opcode.h>"]
    lines += ['#include "%s"' % header for header in includes_for(minor)]
    if minor < 11:
        lines.append(NOT_INSTALLED_BEFORE_311)
    lines.append(future_structs(minor))
    lines += [PROBE_HELPERS, "int main(void) {"]
    for struct in STRUCTS:
        c_type = pick(struct.c_type, minor)
        for field, by_version in struct.fields:
            text = pick(by_version, minor, interpreter.free_threaded)
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
        include = os.path.join(folder, "include")
        os.mkdir(include)
        for header in interpreter.include.iterdir():
            os.symlink(header, os.path.join(include, header.name))
        os.unlink(os.path.join(include, "pyconfig.h"))
        os.symlink(interpreter.config(), os.path.join(include, "pyconfig.h"))
        command = ["gcc", ABIS[abi], "-w", "-O1", "-DNDEBUG", "-I", include]
        command += ["-I", os.path.join(include, "internal")]
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
