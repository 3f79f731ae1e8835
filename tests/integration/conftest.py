"""Fixtures: every interpreter found, and echion from the build folder.

`ECHION_BUILD` names the build folder (default: build/ at the root), `ECHION_TEST_PYTHONS` the
interpreters (paths, separated by ':'), `ECHION_TEST_LONG=1` runs the long forms. Several runs of
pytest share the tests if `ECHION_TEST_CLAIMS` names a folder for them, new and empty.
"""

from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
import signal
import tempfile
from types import ModuleType
from typing import Callable, Iterator

import pytest

from attach_support import Target, start_target, target_command
from interpreters import Interpreter, find_free_threaded, find_interpreters
from packages import find_packages
from places import PROGRAMS, SEPARATORS, copy_for_all, is_reachable, mirror_preloadable
from runner import Echion, why_not

ROOT = pathlib.Path(__file__).resolve().parents[2]
# An ordinary user, and an interpreter that every user may run, also where the others are in somebody's
# home folder.
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
PYTHON = "/usr/bin/python3"
FILES = pytest.StashKey[str]()
# What `scripts/test --quick` runs: each way to sample and to look, its output, and its refusals.
QUICK = """
    agent_library attach_refusals attach_threads austin_format cli_launch cli_options crowd doctor engines hardening
    install kinds perf_engine profile_keys profile_text rate_limit shares sigquit truth_readers where where_follow
    where_refusals
""".split()
# Not for the runs of pytest that tests start.
CLAIMS = os.environ.pop("ECHION_TEST_CLAIMS", "")
LONG = os.environ.get("ECHION_TEST_LONG", "") not in ("", "0")


def pick_some(by_version: dict[tuple[int, int], Interpreter], module: ModuleType) -> list[Interpreter]:
    """The oldest, the newest, and 3.11, where frames moved from objects to the data stack: the short
    form's interpreters. A module whose tests depend little on the version says ONE_PYTHON, for the
    newest, or TWO_PYTHONS, for that and the oldest. Every version is run by the long form, and by
    the C++ tests."""
    found = list(by_version.values())
    if os.environ.get("ECHION_TEST_PYTHONS"):
        return found
    if getattr(module, "ONE_PYTHON", False):
        return found[-1:]
    if getattr(module, "TWO_PYTHONS", False):
        return found[:1] + found[1:][-1:]
    if len(found) <= 3:
        return found
    return [one for one in found if one in (found[0], found[-1]) or one.minor == (3, 11)]


def pick_free_threaded(module: ModuleType) -> list[Interpreter]:
    """A module whose FREE_THREADED is set runs with the newest free-threaded build, too, and one where
    that is "all" with each; so does either in the long form."""
    wanted = getattr(module, "FREE_THREADED", "")
    found = [] if os.environ.get("ECHION_TEST_PYTHONS") else list(find_free_threaded())
    if not wanted:
        return []
    return found if LONG or wanted == "all" else found[-1:]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `python` runs for some versions; with `every_python`, or in the long
    form, once for each interpreter, also of versions that there are several of."""
    names = {"python", "every_python"} & set(metafunc.fixturenames)
    for name in names:
        chosen = list(find_interpreters())
        if name == "python" and not LONG:
            chosen = pick_some({one.minor: one for one in chosen}, metafunc.module)
        if name == "python" or getattr(metafunc.module, "FREE_THREADED", "") == "all":
            chosen += pick_free_threaded(metafunc.module)
        metafunc.parametrize(name, chosen, ids=[one.name for one in chosen], scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.stem.removeprefix("test_") in QUICK:
            item.add_marker(pytest.mark.quick)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Files of tests go to a new folder each time. pytest's own is named after the user, by USER or
    LOGNAME, and refused when it belongs to another; in an old one there may be anything. Signals are
    not ignored, as they are in what a script starts in the background: programs would inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    config.addinivalue_line("markers", "quick: what `scripts/test --quick` runs")
    config.addinivalue_line("markers", "alone: no other test runs beside it")
    if config.option.basetemp is None:
        folder = tempfile.mkdtemp(prefix="echion-tests-")
        config.option.basetemp = os.path.join(folder, "pytest")
        config.stash[FILES] = folder


def claim_tests(items: list[pytest.Item], folder: pathlib.Path) -> Iterator[pytest.Item]:
    """Those that no other run has taken by the time that this one comes to them. At the end come those
    that are marked `alone`: while the others wait."""
    with open(folder / "lock", "w") as lock:
        for alone in (False, True):
            fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            for number, item in enumerate(items):
                if (item.get_closest_marker("alone") is not None) != alone:
                    continue
                try:
                    (folder / str(number)).touch(exist_ok=False)
                except FileExistsError:
                    continue
                yield item


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """pytest's own loop, over what this run gets of the tests. All runs have the same list of them."""
    if not CLAIMS or session.testsfailed or session.config.option.collectonly:
        return None
    claimed = claim_tests(session.items, pathlib.Path(CLAIMS))
    item = next(claimed, None)
    while item is not None:
        following = next(claimed, None)  # whose fixtures are kept
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


def pytest_unconfigure(config: pytest.Config) -> None:
    if folder := config.stash.get(FILES, None):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    config = terminalreporter.config
    if exitstatus == pytest.ExitCode.TESTS_FAILED and FILES in config.stash:
        terminalreporter.line(f"the tests' files are left in {config.stash[FILES]}")
        del config.stash[FILES]


def pytest_report_header() -> list[str]:
    found = ", ".join(f"{one.name} ({one.path})" for one in find_interpreters())
    return [f"interpreters: {found or 'none'}", f"long forms: {'yes' if LONG else 'no'}"]


@pytest.fixture(scope="session")
def build_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = pathlib.Path(os.environ.get("ECHION_BUILD", ROOT / "build")).resolve()
    if not (folder / "echion").is_file():
        pytest.fail(f"no echion in {folder}: build first (scripts/build)")
    if SEPARATORS.search(str(folder)):
        folder = mirror_preloadable(folder, tmp_path_factory.mktemp("build"))
    return folder


@pytest.fixture(scope="session")
def any_python() -> Interpreter:
    """One interpreter, the newest, for behaviour that does not depend on the version."""
    found = find_interpreters()
    if not found:
        pytest.fail("no CPython 3.8 to 3.15 found")
    return found[-1]


@pytest.fixture(params=["clock", "bpf"])
def engine(request: pytest.FixtureRequest, build_dir: pathlib.Path) -> str:
    """What makes the ticks: a test that asks for it runs with each that this machine allows."""
    if reason := why_not(request.param, build_dir / "echion"):
        pytest.skip(reason)
    return request.param


@pytest.fixture(params=["clock", "perf", "bpf"])
def cpu_engine(request: pytest.FixtureRequest, build_dir: pathlib.Path) -> str:
    """The same for ticks of CPU time."""
    if reason := why_not(request.param, build_dir / "echion"):
        pytest.skip(reason)
    return request.param


@pytest.fixture
def echion(build_dir: pathlib.Path, tmp_path: pathlib.Path) -> Echion:
    """Runs echion with its output below the test's own folder."""
    return Echion(build_dir / "echion", tmp_path)


@pytest.fixture
def waiting(any_python: Interpreter, tmp_path: pathlib.Path) -> Iterator[Target]:
    """A target that waits, and has to have waited undisturbed at the end."""
    with start_target(tmp_path, target_command(any_python, "waits", "raw_read")) as target:
        target.wait_for_call(0)
        yield target
        report = target.finish()
        assert report["got"] == report["wanted"]


@pytest.fixture(scope="session")
def packages() -> Callable[..., dict[str, str]]:
    """`packages(python, names…)`: the environment in which an interpreter finds them. Skips the test
    where they are not there. find_packages() has the arguments."""

    def environment_with(python: Interpreter, *names: str, variant: str = "") -> dict[str, str]:
        found = find_packages(python, *names, variant=variant)
        if isinstance(found, str):
            pytest.skip(found)
        return {"PYTHONPATH": str(found)}

    return environment_with


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def needs_perf(build_dir: pathlib.Path) -> None:
    if reason := why_not("perf", build_dir / "echion"):
        pytest.skip(reason)


@pytest.fixture
def needs_users_perf(needs_perf: None) -> None:
    if int(pathlib.Path("/proc/sys/kernel/perf_event_paranoid").read_text()) > 2:
        pytest.skip("kernel.perf_event_paranoid leaves users none")


@pytest.fixture
def nobodys(build_dir: pathlib.Path, needs_root: None) -> Iterator[Echion]:
    """An echion that an ordinary user (wrap=NOBODY) may run, and write beside."""
    if not pathlib.Path(PYTHON).exists() or shutil.which("setpriv") is None:
        pytest.skip(f"needs {PYTHON} and setpriv")
    folder = pathlib.Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    try:
        if not is_reachable(folder):
            pytest.skip(f"{folder.parent} is closed to other users: set TMPDIR to one that is not")
        copy_for_all((build_dir / name for name in PROGRAMS), folder)
        yield Echion(folder / "echion", folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def long_form() -> bool:
    return LONG
