"""Programs in which somebody has put own functions in front of the C library's: libfaketime, mocks.
The agent asks the kernel, and is seen by none of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time

import pytest

from attach_support import start_target
from runner import TARGETS

ONE_PYTHON = True  # see conftest.py

# Of what a function has used, so much at least is its own in the profile, or marked as missed, as
# happens on a busy machine.
LEAST_SHARE = 0.8
# And not more than that, when the profile counts the same time as the program does.
MOST_SHARE = 1.1

# Puts it in front of the agent, which the launch has preloaded.
PRELOAD = ["sh", "-c", 'LD_PRELOAD="$0${LD_PRELOAD:+:$LD_PRELOAD}" exec "$@"']

pytestmark = pytest.mark.skipif(
    os.uname().machine != "x86_64", reason="elsewhere the agent's calls are the C library's"
)


@pytest.fixture(scope="session")
def interposer(tmp_path_factory):
    library = tmp_path_factory.mktemp("interposer") / "interposer.so"
    source = TARGETS / "interposer.c"
    subprocess.run(
        ["gcc", "-O1", "-shared", "-fPIC", "-Werror", "-Wall", "-o", library, source], check=True
    )
    return library


@pytest.fixture(params=["own", "libfaketime"])
def frozen(request, interposer):
    """What runs a command whose clocks stand still."""
    if request.param == "own":
        return [*PRELOAD, str(interposer)]
    if shutil.which("faketime") is None:
        pytest.skip("needs faketime")
    return ["faketime", "-f", "2020-01-01 00:00:00"]


@pytest.fixture
def calls(tmp_path):
    """Where the interposer writes which functions the agent has called, and what that says."""
    path = tmp_path / "interposed"
    path.touch()
    return path


@pytest.fixture(params=["wall", "cpu"])
def mode(request):
    return ["-c"] if request.param == "cpu" else []


def check(result, calls, report, elapsed_s, counts_cpu):
    assert calls.read_text() == ""
    profile = result.profile
    assert profile.figure("duration") <= elapsed_s * 1e6
    missed_us = profile.figure("missed_us")
    assert profile.total_with("main", thread="MainThread") > 0
    wrong = 0
    for function, other in (("alpha", "beta"), ("beta", "alpha")):
        own_us = profile.total_with("main", function, thread="MainThread")
        used_us = report[f"{function}_s"] * 1e6
        assert own_us + missed_us >= LEAST_SHARE * used_us, function
        if counts_cpu:
            assert own_us <= MOST_SHARE * used_us
        wrong += profile.total_with(function, other) + profile.total_with("used", function)
    assert wrong == 0


def test_a_launched_program_whose_clocks_stand_still(
    echion, python, cpu_engine, frozen, mode, calls
):
    if cpu_engine == "perf" and not mode:
        pytest.skip("perf events tick for CPU time")
    command = [*frozen, python.path, str(TARGETS / "frozen.py")]
    env = {"ECHION_TEST_INTERPOSED": str(calls)}
    begin = time.monotonic()
    result = echion.run(command, *mode, "--engine", cpu_engine, env=env, timeout=30).check()
    check(result, calls, result.report, time.monotonic() - begin, bool(mode))


def test_an_attachment_to_a_program_whose_clocks_stand_still(
    echion, python, engine, frozen, mode, calls, tmp_path
):
    command = [*frozen, python.path, str(TARGETS / "frozen.py")]
    env = {"ECHION_TEST_INTERPOSED": str(calls), "ECHION_TEST_AWAIT_SAMPLER": "1"}
    with start_target(tmp_path, command, env=env) as target:
        begin = time.monotonic()
        with echion.start(["-p", str(target.pid)], *mode, "--engine", engine) as running:
            result = running.finish(30).check()
        elapsed_s = time.monotonic() - begin
        check(result, calls, target.finish(), elapsed_s, bool(mode))


@pytest.mark.parametrize("way", ["-p", "-w"])
def test_echion_itself_under_a_clock_that_stands_still(echion, waiting, tmp_path, way):
    if shutil.which("faketime") is None:
        pytest.skip("needs faketime")
    command = ["faketime", "-f", "2020-01-01 00:00:00", str(echion.program), way, str(waiting.pid)]
    command += ["-x", "0.3"] + (["-o", str(tmp_path / "profile")] if way == "-p" else [])
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_what_the_agent_leaves_to_the_c_library_is_listed(build_dir):
    """docs/agent-calls.md has a reason for each."""
    command = ["nm", "-D", "--undefined-only", "--format=posix", str(build_dir / "libechion.so")]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    called = {line.split("@")[0].split()[0] for line in listing.splitlines()}
    text = (TARGETS.parents[1] / "docs/agent-calls.md").read_text()
    table = text.partition("## Left to the C library")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert called - listed == set(), "called, and no word of why that is safe"
    assert listed - called == set(), "not called any more"
