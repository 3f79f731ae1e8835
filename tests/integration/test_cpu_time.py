"""The metric of `-c` against the kernel's own figure: each thread's clock, read by the thread.

With the kernel's programs the two are the same number, so that only what a thread does before it is
known and after it has read its clock makes a difference. The others read the threads' clocks at their
ticks: on a busy machine these are late, and a thread may have ended meanwhile.
"""

import pathlib
import re
import subprocess
import time

import pytest

from attach_support import start_target, target_command
from conftest import LONG
from interpreters import Interpreter
from runner import TARGETS, TIMEOUT_S, Echion, Result

FREE_THREADED = True  # see conftest.py
SECONDS = "3" if LONG else "1"
LATE = 0.03 if LONG else 0.10
TOLERANCE = {"bpf": 0.01, "perf": LATE, "clock": LATE}
# A thread does some work outside its function: its start, and its end. So does the process.
ALLOWANCE_US = 1500
PROCESS_ALLOWANCE_US = 10_000
ENDING_US = 100_000


def check_process(result: Result, tolerance: float) -> None:
    """All threads together, the sampler's among them, have what the process has by getrusage, but for
    what the main thread uses after it has asked: until Python has ended."""
    totals = result.profile.thread_totals()
    ending_us = max(totals["MainThread"] - result.report["main_us"], 0)
    assert ending_us <= ENDING_US
    assert sum(totals.values()) - ending_us == pytest.approx(
        result.report["rusage_us"], rel=tolerance, abs=PROCESS_ALLOWANCE_US
    )


def check_short_threads(result: Result, tolerance: float) -> None:
    """All threads of the target's `short` together have no less than their own figures, and no more
    than what the process used beside its main thread and the sampler: a thread's end costs time, too,
    up to a tenth of 5 ms on a slow machine, but is not in its own figure."""
    threads = result.report["threads"]
    names = set(threads) | {f"thread-{figures['tid']}" for figures in threads.values()}
    # A thread that no tick met is in the stand-in's.
    names.add("threads not seen")
    # A line without a stack does not end in a number.
    names |= {name.replace(" ", "_") for name in names}
    seen = result.profile.total(lambda sample: sample.thread in names)
    least = sum(figures["cpu_us"] for figures in threads.values()) * (1 - tolerance)
    most = result.report["all_threads_us"] + PROCESS_ALLOWANCE_US
    print(least, seen, most)
    assert least <= seen <= most


@pytest.mark.parametrize("kind", ["busy", "bursts", "duty"])
def test_each_thread_has_the_cpu_time_that_its_clock_shows(
    echion: Echion, any_python: Interpreter, cpu_engine: str, kind: str
) -> None:
    result = echion.run_target(
        any_python, "cpu_figures", kind, SECONDS, options=["-c", "-i", "1000", "--engine", cpu_engine]
    ).check()
    totals = result.profile.thread_totals()
    for name, figures in result.report["threads"].items():
        # What was seen of it before its name was known is under its number.
        seen = totals.get(name, 0) + totals.get(f"thread-{figures['tid']}", 0)
        assert seen == pytest.approx(
            figures["cpu_us"], rel=TOLERANCE[cpu_engine], abs=ALLOWANCE_US
        ), f"{name}: {totals}"
    check_process(result, TOLERANCE[cpu_engine])


def test_threads_that_live_for_five_milliseconds_are_accounted_for(
    echion: Echion, any_python: Interpreter, cpu_engine: str
) -> None:
    result = echion.run_target(
        any_python, "cpu_figures", "short", SECONDS, options=["-c", "-i", "1000", "--engine", cpu_engine]
    ).check()
    check_short_threads(result, TOLERANCE[cpu_engine])
    check_process(result, TOLERANCE[cpu_engine])


def test_a_sleeping_target_does_not_wake_the_sampler(
    echion: Echion, any_python: Interpreter, cpu_engine: str
) -> None:
    if cpu_engine == "clock":
        pytest.skip("the sampler's own timer has to look at the clock")
    program = "import sys; sys.path.insert(0, sys.argv[1]); import _support as it; it.ready(); input()"
    command = [any_python.path, "-c", program, str(TARGETS)]
    options = ["-c", "-i", "1000", "--engine", cpu_engine]
    with echion.start(command, *options, stdin=subprocess.PIPE) as running:
        sampler = find_sampler(running.wait_ready())
        wait_until_quiet(sampler)
        # A thousand ticks would fall due meanwhile.
        before = sleeps(sampler)
        time.sleep(1.0)
        woken = sleeps(sampler) - before
        running.process.stdin.write("\n")
        running.process.stdin.flush()
        result = running.finish().check()
    assert result.profile.header["engine"] == cpu_engine
    assert woken == 0


def find_sampler(pid: int) -> pathlib.Path:
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text() == "echion\n":
            return task
    raise AssertionError("no sampler thread")


def sleeps(task: pathlib.Path) -> int:
    """How often the thread has gone to sleep: each time it was woken before."""
    status = (task / "status").read_text()
    return int(re.search(r"^voluntary_ctxt_switches:\t(\d+)", status, re.M)[1])


def wait_until_quiet(task: pathlib.Path) -> None:
    """Waits until it has slept through 200 ms."""
    deadline = time.monotonic() + TIMEOUT_S
    last, since = sleeps(task), time.monotonic()
    while time.monotonic() - since < 0.2:
        time.sleep(0.01)
        if (now := sleeps(task)) != last:
            last, since = now, time.monotonic()
        assert time.monotonic() < deadline, "the sampler does not come to rest"


def test_the_threads_that_bring_the_agent_in_are_not_the_programs(
    echion: Echion, any_python: Interpreter, cpu_engine: str, needs_root: None, tmp_path: pathlib.Path
) -> None:
    command = target_command(any_python, "known_stacks", "1")
    awaits = {"ECHION_TEST_AWAIT_SAMPLER": "1"}
    with start_target(tmp_path, command, env=awaits) as target:
        options = ["-c", "-i", "1000", "--engine", cpu_engine]
        result = echion.run([], "-p", str(target.pid), *options).check()
        target.finish()
    assert result.profile.thread_names() <= {"MainThread", "echion.core.sampler"}
