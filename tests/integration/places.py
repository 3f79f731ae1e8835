"""Where tests may put what: a build folder that the dynamic loader takes, folders that others reach."""

from __future__ import annotations

import pathlib
import re
import shutil
import stat
import tempfile
from typing import Iterable

import pytest

# What the dynamic loader takes for the end of a path in LD_PRELOAD.
SEPARATORS = re.compile(r"[\s:]")
PROGRAMS = ("echion", "libechion.so")
FOR_ALL = 0o755


def is_reachable(folder: pathlib.Path) -> bool:
    """Whether every user may go there."""
    return all(one.stat().st_mode & stat.S_IXOTH for one in (folder, *folder.parents))


def open_to_all(folder: pathlib.Path) -> None:
    """Lets every user into a test's folder, whatever the umask; skips the test where all of it lies
    in a folder that is closed to them, which is not ours to open."""
    temporary = pathlib.Path(tempfile.gettempdir()).resolve()
    for one in (folder, *folder.parents):
        if temporary not in one.parents:
            break
        one.chmod(one.stat().st_mode | FOR_ALL)
    if not is_reachable(folder):
        pytest.skip(f"{temporary} is closed to other users: set TMPDIR to a folder that is not")


def copy_for_all(files: Iterable[pathlib.Path], folder: pathlib.Path) -> None:
    """Copies programs to where every user may run them."""
    for file in files:
        copy = shutil.copy(file, folder / file.name)
        pathlib.Path(copy).chmod(FOR_ALL)


def mirror_preloadable(build: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A build folder like `build`, at a path without the characters at which the loader ends one:
    copies of the two programs, the rest by symbolic link."""
    if SEPARATORS.search(str(folder)):
        pytest.skip(f"neither {build} nor {folder} can be preloaded from: a space or a colon")
    for one in build.iterdir():
        if one.name in PROGRAMS:
            shutil.copy(one, folder / one.name)
        else:
            (folder / one.name).symlink_to(one)
    return folder
