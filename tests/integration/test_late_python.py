"""Programs that come to Python as they run (dlopen), finalise it, start it again, close its library."""

from __future__ import annotations

import functools
import itertools
import json
import os
import pathlib
import subprocess

import pytest

from attach_support import start_target
from interpreters import Interpreter
from runner import TARGETS, TIMEOUT_S

TWO_PYTHONS = True  # see conftest.py

# Of the time that the program itself measured, with what the profile says was missed; and at most of
# it. Each run is to be seen, and told once; how exact a profile is on a busy machine, others test.
SHARE, MOST = 0.2, 2.0
CPU_SHARE, CPU_MOST = 0.5, 1.5
SLEEP_LINE = 9  # of run_N()
# What a run uses besides: the start of Python, and its end.
CPU_BESIDE = 2.5
USE_CPU_US = 100_000  # of host.c's use_cpu()

STATUS, STATUS_OF_THREAD = 6, 5
WAYS = {
    "gp": "opened with RTLD_GLOBAL",
    "lp": "opened with RTLD_LOCAL",
    "lppp": "started three times",
    "lt": "started by another thread",
    "lptp": "started by several threads, one after the other",
    "clp": "opened after work in C",
    "flp": "opened in a forked child",
    "lfp": "opened before a fork, started after it",
    "lif": "started before a fork",
    "xlp": "the main thread has left",
    "slsp": "others use attributes of condition variables",
}
CLOSING = {
    "lpdlpdlp": "the library is closed and opened again",
    "lppdclpp": "likewise, with several starts each",
}


@functools.lru_cache(maxsize=None)
def find_library(python: Interpreter) -> tuple[str, str]:
    """The shared library of an interpreter and its sys.prefix; an empty path if there is none."""
    query = (
        "import os, sys, sysconfig as s;"
        "print(sys.base_prefix); print(*(os.path.join(folder, s.get_config_var(name))"
        " for folder in (s.get_config_var('LIBDIR'), f'/usr/lib/{s.get_config_var(\"MULTIARCH\")}')"
        " for name in ('INSTSONAME', 'LDLIBRARY')), sep='\\n')"
    )
    out = subprocess.run([python.path, "-c", query], check=True, capture_output=True, text=True)
    prefix, *paths = out.stdout.splitlines()
    found = [one for one in paths if ".so" in one and os.path.exists(one)]
    return (os.path.realpath(found[0]) if found else "", prefix)


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    program = tmp_path_factory.mktemp("host") / "host"
    command = ["gcc", "-O1", "-o", program, TARGETS / "host.c", "-pthread", "-ldl"]
    subprocess.run(list(map(str, command)), check=True)
    return program


class Program:
    def __init__(self, host: pathlib.Path, python: Interpreter):
        self.library, prefix = find_library(python)
        if not self.library:
            pytest.skip(f"{python.path} has no shared library")
        self.host = host
        self.env = {"PYTHONHOME": prefix}

    def command(self, steps: str) -> list[str]:
        return [str(self.host), self.library, steps]


@pytest.fixture
def program(host: pathlib.Path, python: Interpreter) -> Program:
    return Program(host, python)


def measured(out: str) -> dict[int, tuple[float, float, float]]:
    """What the program measured of each run, in µs: in busy_N(), asleep, CPU time of busy_N()."""
    lines = [list(map(float, line.split())) for line in out.splitlines()]
    return {int(number): tuple(1e6 * one for one in times) for number, *times in lines}


def is_asleep(sample, number: int) -> bool:
    return sample.names[-1:] == (f"run_{number}",) and sample.frames[-1].line == SLEEP_LINE


def check_wall(profile, runs: dict[int, tuple[float, float, float]]) -> None:
    missed = profile.total(lambda sample: "MISSED" in sample.names)
    for number, (busy_us, asleep_us, _) in runs.items():
        found_us = profile.total_with(f"run_{number}", f"busy_{number}")
        slept_us = profile.total(lambda sample: is_asleep(sample, number))
        assert SHARE * busy_us - missed < found_us < MOST * busy_us, (number, profile.footer)
        assert SHARE * asleep_us - missed < slept_us < MOST * asleep_us, (number, profile.footer)
    runs_seen = {name for one in profile.samples for name in one.names if name.startswith("run_")}
    assert runs_seen == {f"run_{number}" for number in runs}


def check_cpu(profile, runs: dict[int, tuple[float, float, float]]) -> None:
    missed = profile.total(lambda sample: "MISSED" in sample.names)
    for number, (_, _, cpu_us) in runs.items():
        found_us = profile.total_with(f"run_{number}", f"busy_{number}")
        assert CPU_SHARE * cpu_us - missed < found_us < CPU_MOST * cpu_us, (number, profile.footer)
    own_us = sum(cpu_us for _, _, cpu_us in runs.values())
    assert profile.total(lambda one: not one.thread.startswith("echion")) < CPU_BESIDE * own_us


@pytest.mark.parametrize("steps", WAYS, ids=lambda steps: f"{steps}: {WAYS[steps]}")
def test_it_is_sampled_from_its_start(echion, program, steps):
    result = echion.run(program.command(steps), env=program.env, timeout=60)
    assert result.returncode == (STATUS_OF_THREAD if "x" in steps else STATUS), result.stderr
    assert not result.stderr
    runs = measured(result.stdout)
    assert len(runs) == steps.count("p") + steps.count("t") + steps.count("i")
    check_wall(result.profile, runs)
    assert result.profile.footer["processes"] == "1"


def test_a_lock_that_nobody_lets_go_of_after_a_fork_is_not_waited_for(echion, host, any_python):
    """The child of a process with several threads has their locks as they were, and not the threads.
    (Some versions of CPython need the loader when they start, and wait for ever by themselves.)"""
    program = Program(host, any_python)
    result = echion.run(program.command("lkfp"), env=program.env, timeout=30)
    assert result.returncode == STATUS, result.stderr
    assert list(measured(result.stdout)) == [1]


@pytest.mark.parametrize("steps", ["clp", "calp"])
def test_work_before_python_starts_is_no_missed_time(echion, program, cpu_engine, steps):
    """Of a program that is linked with Python: no stack was there, and none was missed."""
    env = program.env | {"LD_PRELOAD": program.library}
    result = echion.run(program.command(steps), "-c", "--engine", cpu_engine, env=env, timeout=60)
    assert result.returncode == STATUS, result.stderr
    # The library and Python start after the last look, on a busy machine a good while.
    assert result.profile.figure("missed_us") < USE_CPU_US / 2
    without_stack = result.profile.total(lambda one: one.thread == "MainThread" and not one.frames)
    assert USE_CPU_US / 2 < without_stack < MOST * USE_CPU_US
    check_cpu(result.profile, measured(result.stdout))


@pytest.mark.parametrize("steps", ["lppp", "lptp"])
def test_starts_between_two_ticks_are_seen(echion, program, engine, steps):
    """From the end of one to the start of the next it takes less than the interval."""
    options = ["-i", "10ms", "--engine", engine]
    result = echion.run(program.command(steps), *options, env=program.env, timeout=60)
    assert result.returncode == STATUS, result.stderr
    check_wall(result.profile, measured(result.stdout))


@pytest.mark.parametrize("steps", CLOSING, ids=lambda steps: f"{steps}: {CLOSING[steps]}")
def test_its_library_may_be_closed(echion, program, engine, steps):
    result = echion.run(program.command(steps), "--engine", engine, env=program.env, timeout=60)
    assert result.returncode == STATUS, result.stderr
    check_wall(result.profile, measured(result.stdout))


@pytest.mark.parametrize("steps", ["clp", "lppp", "lptp", "lppdclpp"])
def test_cpu_time_is_told_once(echion, program, cpu_engine, steps):
    command = program.command(steps)
    result = echion.run(command, "-c", "--engine", cpu_engine, env=program.env, timeout=60)
    assert result.returncode == STATUS, result.stderr
    check_cpu(result.profile, measured(result.stdout))


def test_a_program_without_python_is_left_alone(echion, host):
    result = echion.run([str(host), "", "sc"], timeout=60)
    assert result.returncode == STATUS, result.stderr
    assert "no Python was seen" in result.stderr and not result.output.exists()


MOMENTS = {"lwp": "loaded", "lpwp": "finalised", "liwedc": "to_be_closed", "liwedclp": "anew"}


@pytest.mark.parametrize("steps", MOMENTS, ids=MOMENTS.get)
def test_it_can_be_attached_to_at_any_moment(
    echion, needs_root, python, program, engine, steps, tmp_path
):
    with start_target(
        tmp_path, program.command(steps), env=program.env, stdout=subprocess.PIPE
    ) as target:
        with echion.start(["-p", str(target.pid)], "-x", "600", "--engine", engine) as running:
            if MOMENTS[steps] in ("loaded", "finalised"):
                assert "has not started Python yet" in running.finish().stderr
                return
            target.wait_until_sampled()
            target.process.stdin.write(b"x")
            target.process.stdin.flush()
            out = target.process.communicate(timeout=TIMEOUT_S)[0]
            assert target.process.returncode == STATUS
            result = running.finish()
    assert result.returncode == 0, result.stderr
    runs = measured(out.decode())
    if "d" in steps:
        return  # what comes in the place of a closed library is another Python
    check_wall(result.profile, runs)


def test_one_that_has_no_python_yet_cannot_be_attached_to(echion, needs_root, program, tmp_path):
    with start_target(
        tmp_path, program.command("wlp"), env=program.env, stdout=subprocess.PIPE
    ) as target:
        result = echion.run(["-p", str(target.pid)], "-x", "1")
        assert result.returncode == 1 and "has not loaded it yet" in result.stderr
        target.process.stdin.write(b"x")
        target.process.stdin.flush()
        assert target.process.wait(TIMEOUT_S) == STATUS


@pytest.fixture
def lender(tmp_path):
    host = tmp_path / "lent_state"
    source = TARGETS / "lent_state.c"
    subprocess.run(["gcc", "-O1", "-o", host, source, "-pthread", "-ldl"], check=True)
    return host


def test_a_state_that_another_thread_made_is_a_thread_of_its_own(echion, program, engine, lender):
    """CPython leaves the maker's number in it: its stacks are not the maker's."""
    host = lender
    command = [str(host), program.library, "once", "main"]
    result = echion.run(command, "--engine", engine, env=program.env, timeout=60).check()
    profile = result.profile
    missed_us = profile.figure("missed_us")
    for name, us in (("waits", 0.8e6), ("works", 0.3e6)):
        found = profile.total_with(name)
        assert us - 0.05e6 - missed_us <= found <= us + 0.05e6 + missed_us, name
    makers = profile.total(lambda one: one.thread == "MainThread" and one.has("<module>"))
    assert not [one for one in profile.samples if one.thread == "MainThread" and one.has("waits")]
    assert makers <= 0.05e6


@pytest.mark.parametrize("way", ["launched", "attached"])
def test_a_state_that_a_thread_of_python_made_is_a_thread_of_its_own(
    echion, program, engine, lender, tmp_path, needs_root, way
):
    """The maker runs Python, too, and is looked at before or after the state that it lends."""
    command = [str(lender), program.library, "forever" if way == "attached" else "once", "thread"]
    options = ["--engine", engine]
    if way == "launched":
        result = echion.run(command, *options, env=program.env, timeout=60).check()
    else:
        with start_target(tmp_path, command, env=program.env) as target:
            result = echion.run(["-p", str(target.pid)], *options, "-x", "1").check()
    profile = result.profile
    threads = {
        name: {one.thread for one in profile.samples if one.has(name)}
        for name in ("rests", "waits", "works")
    }
    print(threads, profile.footer)
    assert threads["waits"] == threads["works"]
    assert not threads["waits"] & threads["rests"]
    missed_us = profile.figure("missed_us")
    if way == "launched":
        for name, us in (("waits", 0.8e6), ("works", 0.3e6), ("rests", 1.2e6)):
            found = profile.total_with(name)
            assert us - 0.05e6 - missed_us <= found <= us + 0.05e6 + missed_us, name
    else:
        # The maker rests from before the first sample to some time behind it.
        assert profile.total_with("works") >= 0.25e6 - missed_us
        assert profile.total_with("waits") >= 0.35e6 - missed_us


def test_a_state_that_another_thread_made_is_followed_though_its_maker_rests(
    echion, program, engine, lender, tmp_path
):
    if engine != "clock":
        pytest.skip("nothing of an engine is in -w")
    command = [str(lender), program.library, "forever", "main"]

    def look(*options):
        done = subprocess.run(
            [echion.program, "-w", str(target.pid), *options, "--json"],
            capture_output=True, text=True, timeout=TIMEOUT_S, check=True,
        )
        return json.loads(done.stdout)["threads"]

    with start_target(tmp_path, command, env=program.env) as target:
        looks = [look() for _ in range(20)]
        followed = look("-x", "2")
    spent = {"waits": 0, "works": 0}
    for thread in [*itertools.chain.from_iterable(looks), *followed]:
        for stack in thread.get("stacks", [thread]):
            functions = {frame["function"] for frame in stack["frames"]}
            for name in spent:
                if name in functions:
                    spent[name] += stack.get("time_ns", 0)
                    assert (thread["name"], thread["native_id"]) == ("<unknown>", None)
    # It takes turns of 0.4 and 0.3 s.
    assert spent["works"] >= 0.25 * sum(spent.values())
    assert spent["waits"] >= 0.4 * sum(spent.values())
