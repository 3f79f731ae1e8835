"""The sampler has a priority above the program's exactly where the program itself may have one."""

from __future__ import annotations

import subprocess
from typing import Sequence

import pytest

from conftest import NOBODY, PYTHON
from places import copy_for_all
from runner import TARGETS, Echion, Result

SCRIPTS = ["priorities.py", "_support.py", "_sampler.py"]
RAISED = "has a priority above the program's"
NOT_RAISED = "may not raise its sampler's priority"


@pytest.fixture
def may_raise() -> None:
    asked = subprocess.run(["nice", "-n", "-10", "nice"], capture_output=True, text=True)
    if asked.returncode or asked.stdout.strip() != "-10":
        pytest.skip("this process may not raise a priority")


@pytest.fixture
def may_be_realtime(may_raise) -> None:
    # Control groups can have no share of it (CONFIG_RT_GROUP_SCHED).
    if subprocess.run(["chrt", "-r", "1", "true"], capture_output=True).returncode:
        pytest.skip("this process may have no real-time thread")


REALTIME = "real-time"
PROGRAMS_PRIORITY = 5


def run(echion: Echion, python: str, *wrap: str, options: Sequence[str] = ()) -> tuple[Result, int | str]:
    """Also the sampler's nice value, or REALTIME, when it is clear that nothing else has another than
    usual."""
    copy_for_all((TARGETS / name for name in SCRIPTS), echion.folder)
    command = [*wrap, python, str(echion.folder / SCRIPTS[0])]
    # Another user cannot write to the test's FIFO.
    result = echion.run(command, "-v", *options, env={"ECHION_TEST_FIFO": ""}).check()
    threads = result.report["threads"]
    nice = threads.pop("echion")
    usual = 5 if "nice" in wrap else 0
    assert set(threads.values()) == {usual}, threads
    assert result.report["child"] == usual
    realtime = result.report["realtime"]
    priority = realtime.pop("echion", 0)
    assert set(realtime.values()) == ({PROGRAMS_PRIORITY} if "chrt" in wrap else set())
    if priority:
        assert priority == (PROGRAMS_PRIORITY + 1 if "chrt" in wrap else 1)
    is_raised = nice < usual or bool(priority)
    assert (RAISED in result.stderr, NOT_RAISED in result.stderr) == (is_raised, not is_raised)
    assert (REALTIME in result.stderr) == bool(priority)
    return result, REALTIME if priority else nice


def test_of_a_program_that_may_do_so_itself(echion, any_python, may_be_realtime):
    _, priority = run(echion, any_python.path)
    assert priority == REALTIME


@pytest.mark.parametrize("policy", ["--fifo", "--rr"])
def test_is_above_that_of_a_real_time_program(echion, any_python, may_be_realtime, policy):
    _, priority = run(echion, any_python.path, "chrt", policy, str(PROGRAMS_PRIORITY))
    assert priority == REALTIME


def test_is_not_real_time_where_that_could_end_the_program(echion, python, may_raise):
    """setrlimit(2): RLIMIT_RTTIME sends SIGXCPU."""
    _, priority = run(echion, python.path, "prlimit", "--rttime=1000000:1000000")
    assert priority == -10


@pytest.mark.parametrize("options", [["--no-follow"], ["-i", "20us"]], ids=["still", "flat out"])
def test_is_not_real_time_where_it_would_leave_others_nothing(echion, python, may_raise, options):
    _, priority = run(echion, python.path, options=options)
    assert priority == -10


def test_is_above_that_of_the_program(echion, any_python, may_raise):
    _, nice = run(echion, any_python.path, "nice", "-n", "5")
    assert nice == -5


def test_not_of_an_ordinary_users_program(nobodys):
    _, nice = run(nobodys, PYTHON, *NOBODY)
    assert nice == 0


def test_of_an_ordinary_users_program_with_the_capability(nobodys, may_be_realtime):
    rights = ["--inh-caps=-all,+sys_nice", "--ambient-caps=+sys_nice"]
    _, priority = run(nobodys, PYTHON, *NOBODY[:-1], *rights)
    assert priority == REALTIME


@pytest.mark.parametrize(("limit", "expected"), [(30, -10), (25, -5), (20, 0)])
def test_of_an_ordinary_users_program_as_far_as_its_limit_goes(nobodys, limit, expected):
    """setrlimit(2): RLIMIT_NICE is 20 less the nice value."""
    limited = ["prlimit", f"--nice={limit}:{limit}"]
    tried = subprocess.run([*limited, "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this process may not set the limit: {tried.stderr.strip()}")
    _, nice = run(nobodys, PYTHON, *limited, *NOBODY)
    assert nice == expected
