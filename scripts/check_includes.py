#!/usr/bin/env python3
"""Checks who includes whom.

The tree's folders form layers. A folder may include itself and the folders listed for it below;
the guest folders, whose code may run inside the target, may not use the libraries of the
command-line program. Prints one line for every include that breaks a rule, and exits 1 if any does.
"""

from __future__ import annotations

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Folder (below userspace/, or at the root) → the folders it may include beside itself.
CORE = {"base", "memory", "model", "platform"}
LAYERS: dict[str, set[str]] = {
    "base": set(),
    "memory": {"base"},
    "model": {"base"},
    "platform": {"base", "memory", "model"},
    "linux": CORE | {"bpf"},
    "darwin": CORE,
    "cpython": CORE,
    "capture": CORE | {"cpython"},
    "report": CORE | {"cpython", "capture"},
    "control": {"base"},
    "stream": {"base", "model"},
    "engine": CORE | {"cpython", "control", "bpf"},
    "output": {"base", "model"},
    "native": CORE,
    "agent": CORE | {"linux", "darwin", "cpython", "capture", "report", "control"}
    | {"stream", "engine"},
    "console": CORE,
    "inject": CORE | {"linux", "console"},
    "isolation": CORE | {"console", "engine"},
    "where": CORE | {"cpython", "capture", "report", "console", "isolation"},
    "cli": CORE
    | {"linux", "darwin", "cpython", "capture", "report", "control", "stream", "engine"}
    | {"output", "native", "console", "isolation", "where", "inject", "bpf"},
    "bpf": set(),
}

# Code in these folders may run inside the target: libc and the C++ headers that need no run time.
GUESTS = {
    *("base", "memory", "model", "platform", "linux", "darwin", "cpython", "capture", "report"),
    *("control", "stream", "agent"),
}
# The engines have both halves side by side: the guest's files are those of this library.
GUEST_LIBRARY = re.compile(r"echion_guest_library\(echion_engine_guest\s+SOURCES([^)]*?)USES")
NOT_FOR_GUESTS = re.compile(
    r"^(CLI/|fmt/|bpf/(?!abi\.h)|libunwind|lzma\.h|zlib\.h|protozero/|Python\.h|gelf\.h|libelf\.h"
    r"|iostream$|fstream$|sstream$|filesystem$|regex$|locale$|format$)"
)
# The one header of bpf/ that user space and kernel share.
BPF_FOR_ALL = "bpf/abi.h"

SYSTEM_FOLDERS = {"linux", "darwin"}

# Headers that only Linux has. Code in these folders asks platform/ instead.
LINUX_ONLY = re.compile(
    r"^(linux/|link\.h$|sys/(auxv|epoll|eventfd|personality|prctl|ptrace|signalfd|syscall|timerfd|uio)"
    r"\.h$)"
)
NEUTRAL = {"memory", "model", "cpython", "control", "stream", "capture", "report", "agent"}
# Those that still know Linux: how it loads programs, and whose descriptors are whose.
NOT_NEUTRAL_YET = {
    f"userspace/agent/{name}.cpp" for name in ("descriptors", "entry", "guest", "python_start")
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


def guest_engine_files() -> set[pathlib.Path]:
    """The sources of the engines' guest half, with the headers of the same names and two alone."""
    folder = ROOT / "userspace" / "engine"
    listed = GUEST_LIBRARY.search((folder / "CMakeLists.txt").read_text(encoding="utf-8"))
    if listed is None:
        raise SystemExit(f"{folder}/CMakeLists.txt: no sources of the engines' guest half")
    sources = [folder / name for name in listed.group(1).split()]
    headers = {folder / "bpf" / name for name in ("kernel_time.h", "snapshot_layout.h")}
    return headers | {file for source in sources for file in (source, source.with_suffix(".h"))}


GUEST_ENGINE_FILES = guest_engine_files()


def target_of(included: str) -> str | None:
    """The layer that a quoted include names, or None if it stands in the including folder."""
    parts = tuple(included.split("/")[:-1])
    return layer_of(parts) if parts else None


def resolves(path: pathlib.Path, included: str) -> bool:
    candidates = (path.parent / included, ROOT / "userspace" / included, ROOT / included)
    return any(candidate.is_file() for candidate in candidates)


def is_host_engine(path: pathlib.Path) -> bool:
    return folder_of(path) == "engine" and path not in GUEST_ENGINE_FILES


def check_quoted(path: pathlib.Path, included: str) -> str | None:
    folder = folder_of(path)
    target = target_of(included)
    if target is None or target == folder:
        if included.endswith(".skel.h") or resolves(path, included):
            return None
        return f'"{included}" is not in the tree'
    if target not in LAYERS:
        return f'"{included}" is in no known layer'
    if target not in LAYERS[folder]:
        return f'{folder} may not include {target} ("{included}")'
    if target == "bpf" and included != BPF_FOR_ALL and not is_host_engine(path):
        return f'{folder} may include "{BPF_FOR_ALL}" only ("{included}")'
    if not included.endswith(".skel.h") and not resolves(path, included):
        return f'"{included}" is not in the tree'
    return None


def check_file(path: pathlib.Path) -> list[str]:
    folder = folder_of(path)
    if folder not in LAYERS:
        return [f"{path.relative_to(ROOT)}:1: the folder {folder} is in no known layer"]
    is_neutral = folder in NEUTRAL and str(path.relative_to(ROOT)) not in NOT_NEUTRAL_YET
    problems: list[tuple[int, str]] = []
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".h" and folder != "bpf" and "#pragma once" not in text:
        problems.append((1, "a header starts with #pragma once"))
    for number, line in enumerate(text.splitlines(), 1):
        if match := INCLUDE.match(line):
            quoted, angled = match.groups()
            if quoted and (problem := check_quoted(path, quoted)):
                problems.append((number, problem))
            is_guest = folder in GUESTS or path in GUEST_ENGINE_FILES
            if angled and is_guest and NOT_FOR_GUESTS.match(angled):
                problems.append((number, f"{folder} may run in the target: no <{angled}>"))
            knows_linux = (angled and LINUX_ONLY.match(angled)) or (
                quoted and quoted.startswith("platform/linux/")
            )
            if knows_linux and is_neutral:
                problems.append((number, f"{folder} asks platform/: no {quoted or angled}"))
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
