"""Fixtures: every interpreter found, and echion from the build folder.

`ECHION_BUILD` names the build folder (default: build/ at the root), `ECHION_TEST_PYTHONS` the
interpreters (paths, separated by ':'), `ECHION_TEST_LONG=1` runs the long forms.
"""

from __future__ import annotations

import os
import pathlib

import pytest

from interpreters import Interpreter, find_interpreters
from runner import Echion

ROOT = pathlib.Path(__file__).resolve().parents[2]
LONG = os.environ.get("ECHION_TEST_LONG", "") not in ("", "0")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `python` runs once for each interpreter."""
    if "python" in metafunc.fixturenames:
        found = find_interpreters()
        metafunc.parametrize("python", found, ids=[one.name for one in found], scope="session")


def pytest_report_header() -> list[str]:
    found = ", ".join(f"{one.name} ({one.path})" for one in find_interpreters())
    return [f"interpreters: {found or 'none'}", f"long forms: {'yes' if LONG else 'no'}"]


@pytest.fixture(scope="session")
def build_dir() -> pathlib.Path:
    folder = pathlib.Path(os.environ.get("ECHION_BUILD", ROOT / "build")).resolve()
    if not (folder / "echion").is_file():
        pytest.fail(f"no echion in {folder}: build first (scripts/build)")
    return folder


@pytest.fixture(scope="session")
def any_python() -> Interpreter:
    """One interpreter, the newest, for behaviour that does not depend on the version."""
    found = find_interpreters()
    if not found:
        pytest.fail("no CPython 3.8 to 3.13 found")
    return found[-1]


@pytest.fixture
def echion(build_dir: pathlib.Path, tmp_path: pathlib.Path) -> Echion:
    """Runs echion with its output below the test's own folder."""
    return Echion(build_dir / "echion", tmp_path)


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def long_form() -> bool:
    return LONG
