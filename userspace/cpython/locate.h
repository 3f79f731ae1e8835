#pragma once

#include <sys/types.h>

#include <cstddef>

#include "base/error.h"
#include "cpython/runtime_view.h"
#include "memory/address.h"
#include "memory/reader.h"

namespace echion::cpython {

/// The versions of CPython that there are layouts for, in words.
constexpr const char* kSupportedVersions = "3.8 to 3.15";

/// Where a process keeps its CPython, and how that was found out.
struct LocatedRuntime {
    LocatedRuntime() = default;
    LocatedRuntime(const LocatedRuntime& other) { *this = other; }
    LocatedRuntime& operator=(const LocatedRuntime& other);
    ~LocatedRuntime() = default;

    RuntimeView view;  ///< `view.layout` may point to `own_layout`: it lives as long as this
    /// The layout that the runtime states itself, where that is not the version's row.
    Layout own_layout{};
    bool has_own_layout = false;
    Address module_base;    ///< first byte of the executable or library that holds the runtime
    bool is_ready = false;  ///< the runtime was initialised when it was looked at
    /// How _PyRuntime was found: "dynamic symbol", "symbol table" or "section".
    const char* method = "";
    char module_path[256] = {};  ///< for messages; cut to fit
};

/// Finds the CPython runtime of a process (kOwnProcess for this one) in its own memory: the symbol
/// _PyRuntime of any mapped object; in files stripped of it, the section .PyRuntime (3.10 and
/// later). Where a process has several runtimes (an executable and a library both hold one), the
/// one that has been initialised. In the own process it takes the same way as in another one, and
/// so needs neither the dynamic loader nor its locks.
///
/// The version comes from the symbol Py_Version (3.11 and later), else from the text that
/// Py_GetVersion() built in the module's data when the runtime started; never from a file's name.
///
/// kNotPython: no runtime. kNotReady: a runtime that has not started, so that its version cannot be
/// told yet. kUnsupportedVersion: `out.view.version` says which, if it is known. kSystem: the
/// process does not exist or may not be looked at. Allocates nothing but, for stripped and static
/// files, a mapping for the time of the call. Any thread; about 20 reads for each mapped object.
Status locate_runtime(MemoryReader& reader, pid_t pid, LocatedRuntime& out);

/// Finds the version in a copy of memory that holds the text of Py_GetVersion(), such as
/// "3.8.18 (default, Nov 22 2024, 10:00:00) \n[GCC 12.2.0]". kInvalid when there is none. Pure.
Result<Version> parse_version_text(const char* copy, std::size_t size_bytes);

}  // namespace echion::cpython
