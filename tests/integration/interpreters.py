"""Finds the CPython interpreters to test with."""

from __future__ import annotations

import dataclasses
import functools
import glob
import os
import shutil
import subprocess

OLDEST, NEWEST = (3, 8), (3, 15)

_QUERY = (
    "import sys, struct; print(sys.implementation.name, *sys.version_info[:3],"
    " struct.calcsize('P'), getattr(sys, 'abiflags', ''), sys.executable, sep='|')"
)


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """One CPython to run targets with."""

    path: str
    version: tuple[int, int, int]
    is_free_threaded: bool = False

    @property
    def minor(self) -> tuple[int, int]:
        return self.version[:2]

    @property
    def has_own_c_library(self) -> bool:
        """Whether it runs with another C library than the machine's: one of a suite's packages."""
        made = os.path.realpath(made_folder()) + os.sep
        return not self.is_free_threaded and os.path.realpath(self.path).startswith(made)

    @property
    def name(self) -> str:
        """For a test's id: the version, and where two have the same, the folder too."""
        version = ".".join(map(str, self.version)) + "t" * self.is_free_threaded
        return f"{version}-system" if self.path.startswith("/usr/") else version

    def is_called(self, word: str) -> bool:
        """Whether the word is its version or the first numbers of that, with a t behind them where it
        is free-threaded: 3.14, 3.14.7t."""
        numbers = ".".join(map(str, self.version)) + "."
        is_free_threaded = word.endswith("t")
        return self.is_free_threaded == is_free_threaded and numbers.startswith(
            word.removesuffix("t") + "."
        )


def made_folder() -> str:
    """Where scripts/pythons puts those that it makes."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.environ.get("ECHION_PYTHONS") or os.path.join(cache, "test-pythons")


def _named() -> list[str]:
    named = os.environ.get("ECHION_TEST_PYTHONS", "")
    return [path for path in named.replace(",", os.pathsep).split(os.pathsep) if path]


def _candidates() -> list[str]:
    if named := _named():
        return named
    pyenv = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    found = sorted(glob.glob(os.path.join(pyenv, "versions", "*", "bin", "python3")))
    names = ["python3"] + [f"python3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
    found.append("/usr/bin/python3")
    found.extend(sorted(glob.glob(os.path.join(made_folder(), "*", "usr", "bin", "python3.??"))))
    found.extend(filter(None, map(shutil.which, names)))
    return found


def _query(path: str) -> Interpreter | None:
    try:
        answer = subprocess.run(
            [path, "-I", "-c", _QUERY], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    name, *version, pointer_bytes, abi_flags, executable = answer.strip().split("|")
    numbers = tuple(map(int, version))
    if name != "cpython" or pointer_bytes != "8" or not OLDEST <= numbers[:2] <= NEWEST:
        return None
    # Where the path is a script that chooses an interpreter, this is the one that it chose.
    return Interpreter(executable, numbers, "t" in abi_flags)


@functools.lru_cache(maxsize=None)
def find_interpreters() -> tuple[Interpreter, ...]:
    """Every supported interpreter found, oldest first, each file once: those with a GIL, unless
    others are named (ECHION_TEST_PYTHONS)."""
    found: dict[str, Interpreter] = {}
    for path in _candidates():
        interpreter = _query(path)
        if interpreter and (_named() or not interpreter.is_free_threaded):
            found.setdefault(os.path.realpath(interpreter.path), interpreter)
    return tuple(sorted(found.values(), key=lambda one: (one.version, one.path)))


@functools.lru_cache(maxsize=None)
def find_free_threaded() -> tuple[Interpreter, ...]:
    """Those without a GIL that scripts/pythons has made, oldest first."""
    paths = glob.glob(os.path.join(made_folder(), "*", "usr", "bin", "python3.??t"))
    found = (_query(path) for path in _named() or paths)
    return tuple(
        sorted(
            (one for one in found if one and one.is_free_threaded), key=lambda one: one.version
        )
    )
