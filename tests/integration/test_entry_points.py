"""Threads whose outermost Python function changes all the time: a host that calls several functions from
C, greenlets. Which of them a sample shows must not depend on which one was seen before."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from interpreters import Interpreter, find_interpreters
from runner import TARGETS, Echion
from test_late_python import Program

# Frames are objects in 3.8; the way to the newest frame is another one in 3.11, 3.12 and 3.13.
PYTHONS = [one for one in find_interpreters() if one.minor in ((3, 8), (3, 11), (3, 12), (3, 13))]
SECONDS = "1.5"
# Of the program's own measurement; of 1,500 samples a share of 0.67 has a standard deviation of 0.012.
TOLERANCE = 0.05


@pytest.fixture(scope="session")
def entry_points(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    host = tmp_path_factory.mktemp("host") / "entry_points"
    source = TARGETS / "entry_points.c"
    subprocess.run(["gcc", "-O1", "-o", host, source, "-ldl"], check=True)
    return host


@pytest.mark.parametrize("interpreter", PYTHONS, ids=lambda one: one.name)
@pytest.mark.parametrize("options", [[], ["-c"]], ids=["wall", "cpu"])
def test_each_outermost_function_has_its_share(
    echion: Echion, interpreter: Interpreter, engine: str, entry_points: pathlib.Path, options: list[str]
) -> None:
    program = Program(entry_points, interpreter)
    command = [str(entry_points), program.library, SECONDS]
    result = echion.run(command, *options, "--engine", engine, env=program.env).check()
    profile = result.profile
    first_us, second_us = map(float, result.stdout.split())
    spent = {name: profile.total_with(name) for name in ("first", "second")}
    print(spent, first_us, second_us, profile.footer)
    assert spent["first"] / sum(spent.values()) == pytest.approx(
        first_us / (first_us + second_us), abs=TOLERANCE
    )
    # What looks like the middle of a call is rare.
    samples, marked = profile.figure("samples"), profile.figure("torn_marked")
    assert marked <= 0.01 * samples
    assert profile.figure("torn_retried") <= 0.05 * samples


@pytest.mark.parametrize("interpreter", PYTHONS, ids=lambda one: one.name)
def test_what_runs_behind_the_outermost_function_is_seen(
    echion: Echion, interpreter: Interpreter, engine: str
) -> None:
    """Its frame has left the chain then, and not the stack (3.11 and later)."""
    result = echion.run_target(interpreter, "late_del", "1", options=["--engine", engine]).check()
    took_us = result.report["took_us"]
    missed_us = result.profile.figure("missed_us")
    found_us = result.profile.total(lambda sample: sample.names[-1:] == ("__del__",))
    print(found_us, took_us, result.profile.footer)
    assert found_us >= 0.9 * took_us - missed_us
