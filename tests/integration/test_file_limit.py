"""A limit on open files that leaves no event for each thread of the target."""

from __future__ import annotations

import pathlib
import resource
import sys

import pytest

from attach_support import start_target
from conftest import PYTHON
from interpreters import Interpreter
from runner import PROFILE_NAMES, Echion

FEW = 80
# One thread of many works, and not before it is told to.
CROWD = """
import os, sys, threading, time
threading.stack_size(1 << 18)
go = threading.Event()
def work():
    end = time.thread_time() + 1.0
    while time.thread_time() < end: pass
def wait(is_last):
    go.wait()
    if is_last: work()
threads = [threading.Thread(target=wait, args=(i == 119,), name=f"one-{i}") for i in range(120)]
for one in threads: one.start()
with open(os.environ["ECHION_TEST_FIFO"], "w") as words: print("ready", os.getpid(), file=words)
sys.stdin.read()
go.set()
for one in threads: one.join()
with open(os.environ["ECHION_TEST_REPORT"], "w") as report: report.write("{}")
"""


def limited(soft: int, hard: int) -> list[str]:
    code = (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", code]


def test_threads_without_an_event_are_seen_at_their_work(
    echion: Echion, any_python: Interpreter, cpu_engine: str, tmp_path: pathlib.Path
) -> None:
    with start_target(tmp_path, [any_python.path, "-c", CROWD]) as crowd:
        options = ["-c"] + (["--engine", "clock"] if cpu_engine == "clock" else [])
        with echion.start(["-p", str(crowd.pid)], *options, wrap=limited(FEW, FEW)) as running:
            crowd.wait_until_sampled()  # it has its own clock by then
            crowd.finish()
            result = running.finish().check()
        profile = result.profile
    assert profile.header["engine"] == "nanosleep"
    # No CPU time of that thread is where it stood before.
    worked_us = profile.total_with("wait", "work")
    assert worked_us == pytest.approx(1_000_000, rel=0.1)
    if cpu_engine != "clock":
        assert "too many open files" in result.stderr and "remedy: ulimit -n" in result.stderr


@pytest.mark.parametrize("name", ["bpf", "perf"])
def test_an_engine_without_room_for_its_events_is_refused(
    echion: Echion, any_python: Interpreter, cpu_engine: str, tmp_path: pathlib.Path, name: str
) -> None:
    if cpu_engine != name:
        pytest.skip("once for each")
    with start_target(tmp_path, [any_python.path, "-c", CROWD]) as crowd:
        options = ["-c", "-x", "0.2", "--engine", name]
        result = echion.run(["-p", str(crowd.pid)], *options, wrap=limited(FEW, FEW))
        crowd.finish()
    assert result.returncode == 1
    assert f"--engine {name} cannot be had: " in result.stderr
    assert "too many open files" in result.stderr and "remedy: ulimit -n" in result.stderr
    assert not result.output.exists()


def test_the_limit_is_raised_for_echion_alone(
    echion: Echion, any_python: Interpreter, cpu_engine: str, tmp_path: pathlib.Path
) -> None:
    soft, hard = FEW, min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    options = ["-c", "--engine", cpu_engine]
    with start_target(tmp_path, [any_python.path, "-c", CROWD]) as crowd:
        command = ["-p", str(crowd.pid), "-x", "0.2"]
        result = echion.run(command, *options, wrap=limited(soft, hard)).check()
        crowd.finish()
    assert result.profile.header["engine"] == PROFILE_NAMES[cpu_engine]
    show = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    result = echion.run([PYTHON, "-c", show], *options, wrap=limited(soft, hard)).check()
    assert result.stdout.strip() == f"({soft}, {hard})"
