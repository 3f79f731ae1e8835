"""The metric of `-c` against the kernel's own figure: each thread's clock, read by the thread.

With the kernel's programs the two are the same number, so that only what a thread does before it is
known and after it has read its clock makes a difference. The others read the threads' clocks at their
ticks: on a busy machine these are late, and a thread may have ended meanwhile.
"""

import pytest

from conftest import LONG
from interpreters import Interpreter
from runner import Echion

SECONDS = "3" if LONG else "1"
LATE = 0.03 if LONG else 0.10
TOLERANCE = {"bpf": 0.01, "perf": LATE, "clock": LATE}
# A thread does some work outside its function: its start, and its end.
ALLOWANCE_US = 1500


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


def test_threads_that_live_for_five_milliseconds_are_accounted_for(
    echion: Echion, any_python: Interpreter, cpu_engine: str
) -> None:
    result = echion.run_target(
        any_python, "cpu_figures", "short", SECONDS, options=["-c", "-i", "1000", "--engine", cpu_engine]
    ).check()
    # All threads of their kind together: what each does before and after its function, 2 % of 5 ms,
    # is in the profile but not in its own figure. A thread that no tick met is in the stand-in's.
    threads = result.report["threads"]
    names = set(threads) | {f"thread-{figures['tid']}" for figures in threads.values()}
    names.add("threads not seen")
    # A line without a stack does not end in a number.
    names |= {name.replace(" ", "_") for name in names}
    seen = result.profile.total(lambda sample: sample.thread in names)
    expected = sum(figures["cpu_us"] for figures in threads.values())
    assert expected * (1 - TOLERANCE[cpu_engine]) <= seen <= expected * 1.05, (seen, expected)


def test_a_sleeping_target_does_not_wake_the_sampler(
    echion: Echion, any_python: Interpreter, cpu_engine: str
) -> None:
    if cpu_engine == "clock":
        pytest.skip("the sampler's own timer has to look at the clock")
    # A thousand ticks would fall due meanwhile.
    program = "import time; time.sleep(1.0)"
    command = [any_python.path, "-c", program]
    result = echion.run(command, "-c", "-i", "1000", "--engine", cpu_engine).check()
    assert result.profile.header["engine"] == cpu_engine
    # Start and end of the interpreter use some tens of milliseconds.
    assert result.profile.figure("ticks") < 300
