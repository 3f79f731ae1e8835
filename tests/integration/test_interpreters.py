"""Every supported version is there to be tested with; the reason is printed where one is not."""

from __future__ import annotations

import glob
import os
import subprocess

import pytest

from interpreters import NEWEST, OLDEST, find_free_threaded, find_interpreters, made_folder

MADE = ((3, 14), (3, 15))  # by scripts/pythons
MADE_FREE_THREADED = ((3, 13), (3, 14), (3, 15))  # likewise


@pytest.mark.parametrize("minor", range(OLDEST[1], NEWEST[1] + 1))
def test_there_is_an_interpreter_of_each_supported_version(minor: int) -> None:
    found = [one.path for one in find_interpreters() if one.minor == (3, minor)]
    made = glob.glob(os.path.join(made_folder(), "*", "usr", "bin", f"python3.{minor}"))
    assert found or not made or os.environ.get("ECHION_TEST_PYTHONS"), f"{made} do not run"
    if not found and os.environ.get("ECHION_TEST_PYTHONS"):
        pytest.skip("ECHION_TEST_PYTHONS names none of this version")
    if not found:
        how = "scripts/pythons makes one" if (3, minor) in MADE else "pyenv installs one"
        pytest.skip(f"no CPython 3.{minor} is tested with: {how}")
    for path in found:
        told = subprocess.run([path, "--version"], capture_output=True, text=True, check=True)
        assert told.stdout.startswith(f"Python 3.{minor}.")


@pytest.mark.parametrize("minor", MADE_FREE_THREADED, ids=lambda minor: "%d.%dt" % minor)
def test_there_is_a_free_threaded_build_of_each_version_that_has_one(minor: tuple[int, int]) -> None:
    found = [one for one in find_free_threaded() if one.minor == minor]
    name = "python%d.%dt" % minor
    made = glob.glob(os.path.join(made_folder(), "*", "usr", "bin", name))
    assert found or not made or os.environ.get("ECHION_TEST_PYTHONS"), f"{made} do not run"
    if not found:
        pytest.skip(f"no {name} is tested with: scripts/pythons makes one")
    told = subprocess.run(
        [found[0].path, "-c", "import sys; print(sys._is_gil_enabled())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "False\n"
