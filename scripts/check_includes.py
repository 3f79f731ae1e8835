#!/usr/bin/env python3
"""Checks who includes whom, and who knows of Linux.

The tree's folders form layers. A folder may include itself and the folders listed for it below.
What CMake puts into a guest library may run inside the target: it may include neither the headers
of a host library nor those of the libraries that the command-line program uses. What only Linux has
is named and included in the places of KNOW_LINUX alone. Prints one line for every line that breaks
a rule, and exits 1 if any does.
"""

from __future__ import annotations

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Folder (below userspace/, or at the root) → the folders it may include beside itself.
CORE = {"base", "memory", "platform"}
LAYERS: dict[str, set[str]] = {
    "base": set(),
    "memory": {"base"},
    "model": {"base"},
    "platform": {"base", "memory"},
    "linux": CORE,
    "darwin": CORE,
    "cpython": CORE,
    "code": CORE | {"cpython"},
    "capture": CORE | {"cpython", "code"},
    "report": CORE | {"cpython", "code", "capture"},
    "control": {"base"},
    "stream": {"base", "model", "platform"},
    "engine": CORE | {"model", "cpython", "control", "bpf"},
    "output": {"base", "model", "platform"},
    "sampling": CORE | {"cpython", "code", "control", "stream", "engine"},
    "agent": CORE | {"cpython", "report", "control", "stream", "engine", "sampling"},
    "console": CORE,
    "inject": CORE | {"linux", "console"},
    "isolation": CORE | {"console", "engine"},
    "where": CORE | {"cpython", "capture", "report", "console", "isolation"},
    "cli": CORE
    | {"model", "linux", "cpython", "control", "stream", "engine", "output"}
    | {"console", "isolation", "where", "inject"},
    "bpf": set(),
}

# A library of CMake (cmake/EchionTargets.cmake): its kind, and its sources.
LIBRARY = re.compile(r"echion_(guest|host)_library\(\w+\s*(?:SOURCES([^)]*?))?(?:(?:APART|USES)[^)]*)?\)")
# What the guests' code may not include: it has libc, and the C++ headers that need no run time.
NOT_FOR_GUESTS = re.compile(
    r"^(CLI/|fmt/|bpf/(?!abi\.h)|libunwind|lzma\.h|zlib\.h|protozero/|Python\.h|gelf\.h|libelf\.h"
    r"|iostream$|fstream$|sstream$|filesystem$|regex$|locale$|format$)"
)
# The one header of bpf/ that user space and kernel share.
BPF_FOR_ALL = "bpf/abi.h"

SYSTEM_FOLDERS = {"linux", "darwin"}

# What only Linux has. Code elsewhere than below asks platform/ instead.
LINUX_HEADERS = re.compile(
    r"^(linux/|asm/|elf\.h$|link\.h$"
    r"|sys/(auxv|epoll|eventfd|inotify|personality|prctl|ptrace|signalfd|syscall|timerfd|uio|vfs|xattr)"
    r"\.h$)"
)
LINUX_NAMES = re.compile(r"(?<![\w.])/proc\b|memfd|pidfd|futex|(?<![a-z])rseq|epoll", re.IGNORECASE)
# Folder, or file without its ending → why it may know of that.
KNOW_LINUX: dict[str, str] = {
    "userspace/platform/linux": "the bodies of platform/",
    "userspace/engine/perf": "perf events",
    "userspace/engine/bpf": "programs in the kernel",
    "userspace/engine/privileges": "what Linux allows whom",
    "bpf": "programs in the kernel",
    "inject": "ptrace, and remote system calls",
    "userspace/console/refusal": "says which calls Linux refused",
    "userspace/isolation/kept_rights": "capabilities",
    "userspace/cli/attach": "the agent's ELF file, which the target gets",
    "userspace/cli/doctor": "tries what Linux allows whom",
    "userspace/cli/engine_choice": "says what the kernel's engines lack",
    "userspace/cli/memory_limits": "limits of another process",
    "userspace/cli/proc_check": "whether procfs serves",
    "userspace/cli/program_facts": "why the dynamic loader preloads nothing",
    "userspace/cli/target_shortage": "limits of another process",
}

INCLUDE = re.compile(r'^\s*#\s*include\s+(?:"([^"]+)"|<([^>]+)>)')
SYSTEM_IFDEF = re.compile(
    r"^\s*#\s*(?:el)?if.*\b(__linux__|__APPLE__|__MACH__|_WIN32|__FreeBSD__)\b"
)


def layer_of(parts: tuple[str, ...]) -> str:
    """The layer of a path below userspace/: platform/linux/ is `linux`, platform/ is `platform`."""
    return parts[1] if len(parts) > 1 and parts[1] in SYSTEM_FOLDERS else parts[0]


def folder_of(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).parts
    return layer_of(parts[1:-1]) if parts[0] == "userspace" else parts[0]


def listed_files(folder: pathlib.Path, kind: str) -> set[pathlib.Path]:
    """The sources of a folder's libraries of that kind, and the headers of the same names."""
    cmake = folder / "CMakeLists.txt"
    libraries = LIBRARY.findall(cmake.read_text(encoding="utf-8")) if cmake.is_file() else []
    names = [name for one, sources in libraries if one == kind for name in sources.split()]
    systems = [name for name in SYSTEM_FOLDERS if (folder / name).is_dir()] or ["linux"]
    sources = {folder / name.replace("${platform_dir}", one) for name in names for one in systems}
    headers = {file.with_suffix(".h") for file in sources}
    return sources | headers | {folder / header.name for header in headers}


def guest_files() -> set[pathlib.Path]:
    """What may run inside the target: all of a folder that has no host library. Where there is one,
    what the guest library lists; of platform/ all but what the host library lists."""
    guests: set[pathlib.Path] = set()
    for folder in (path for path in (ROOT / "userspace").iterdir() if path.is_dir()):
        hosts = listed_files(folder, "host")
        if folder.name == "platform" or not hosts:
            guests |= set(folder.rglob("*")) - hosts
        else:
            guests |= listed_files(folder, "guest")
    return guests


GUEST_FILES = guest_files()


def target_of(included: str) -> str | None:
    """The layer that a quoted include names, or None if it stands in the including folder."""
    parts = tuple(included.split("/")[:-1])
    return layer_of(parts) if parts else None


def find_included(path: pathlib.Path, included: str) -> pathlib.Path | None:
    """The file that a quoted include means."""
    candidates = (path.parent / included, ROOT / "userspace" / included, ROOT / included)
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def check_quoted(path: pathlib.Path, included: str) -> str | None:
    folder = folder_of(path)
    target = target_of(included)
    if target is not None and target not in LAYERS:
        return f'"{included}" is in no known layer'
    if target not in (None, folder) and target not in LAYERS[folder]:
        return f'{folder} may not include {target} ("{included}")'
    is_guest = path in GUEST_FILES
    is_host_engine = folder == "engine" and not is_guest
    if target == "bpf" and folder != "bpf" and included != BPF_FOR_ALL and not is_host_engine:
        return f'{folder} may include "{BPF_FOR_ALL}" only ("{included}")'
    if included.endswith(".skel.h"):
        return None
    found = find_included(path, included)
    if found is None:
        return f'"{included}" is not in the tree'
    if is_guest and included != BPF_FOR_ALL and found not in GUEST_FILES:
        return f'what may run in the target may not include "{included}", a host library\'s'
    return None


def knows_linux(path: pathlib.Path) -> bool:
    place = path.relative_to(ROOT).with_suffix("")
    return any(str(part) in KNOW_LINUX for part in (place, *place.parents))


def check_linux(path: pathlib.Path, line: str) -> str | None:
    if knows_linux(path):
        return None
    if match := INCLUDE.match(line):
        quoted, angled = match.groups()
        if LINUX_HEADERS.match(angled or "") or (quoted or "").startswith("platform/linux/"):
            return f"ask platform/ instead of {quoted or angled}"
        return None
    # The interfaces' comments say where their facts come from.
    if folder_of(path) != "platform" and (name := LINUX_NAMES.search(line)):
        return f"ask platform/ instead of {name.group()}"
    return None


def check_file(path: pathlib.Path) -> list[str]:
    folder = folder_of(path)
    if folder not in LAYERS:
        return [f"{path.relative_to(ROOT)}:1: the folder {folder} is in no known layer"]
    problems: list[tuple[int, str]] = []
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".h" and folder != "bpf" and "#pragma once" not in text:
        problems.append((1, "a header starts with #pragma once"))
    for number, line in enumerate(text.splitlines(), 1):
        if match := INCLUDE.match(line):
            quoted, angled = match.groups()
            if quoted and (problem := check_quoted(path, quoted)):
                problems.append((number, problem))
            if angled and path in GUEST_FILES and NOT_FOR_GUESTS.match(angled):
                problems.append((number, f"what may run in the target: no <{angled}>"))
        if problem := check_linux(path, line):
            problems.append((number, problem))
        if folder not in SYSTEM_FOLDERS and SYSTEM_IFDEF.match(line):
            problems.append((number, "an OS #if where the build could choose a file"))
    relative = path.relative_to(ROOT)
    return [f"{relative}:{number}: {problem}" for number, problem in problems]


def main() -> int:
    files = [
        path
        for top in ("userspace", "bpf", "inject")
        for path in sorted((ROOT / top).rglob("*"))
        if path.suffix in {".h", ".c", ".cpp"}
    ]
    problems = [problem for path in files for problem in check_file(path)]
    for problem in problems:
        print(problem)
    print(f"check_includes: {len(files)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
