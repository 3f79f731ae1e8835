"""With BPF, a profile of wall time says how much of it its threads were on a CPU, waited for one, and
waited for something else: as the kernel counts it."""

import os
import subprocess

import pytest

from interpreters import Interpreter
from runner import Echion, Result

OPTIONS = ["-i", "1000", "--engine", "bpf"]
# Busy until the kernel has let it wait for a CPU for 300 ms (proc(5): /proc/PID/schedstat, in ns).
BUSY = """
import time
def run_delay_us():
    with open("/proc/self/schedstat") as file:
        return int(file.read().split()[1]) // 1000
before = run_delay_us()
end = time.perf_counter() + 20
while run_delay_us() < before + 300_000 and time.perf_counter() < end: pass
print(before, run_delay_us())
"""
# What a program uses before and behind its own measurement, or while it has nothing to do.
AROUND_US = 150_000


@pytest.fixture(autouse=True)
def only_with_bpf(engine: str) -> None:
    if engine != "bpf":
        pytest.skip("only the kernel's programs tell")


def figures(result: Result) -> tuple[int, int, int]:
    return tuple(result.profile.figure(key) for key in ("on_cpu", "runnable", "waiting"))


# Threads that soon end, for longer than the kernel's table keeps one (ECHION_SLOT_QUARANTINE_NS).
SHORT_LIVES = ("short", "5.0")


@pytest.mark.parametrize("program", [("busy", "1.5"), SHORT_LIVES], ids=lambda one: one[0])
def test_a_busy_program_is_on_a_cpu(
    echion: Echion, any_python: Interpreter, program: tuple[str, str]
) -> None:
    result = echion.run_target(any_python, "cpu_figures", *program, options=OPTIONS).check()
    on_cpu, _, _ = figures(result)
    # The process's clock counts the sampler's thread, too, which is not in the profile.
    process_us = result.report["process_us"] - result.profile.figure("sampler_cpu_ns") // 1000
    print(on_cpu, process_us, result.report)
    assert process_us <= on_cpu <= process_us + AROUND_US


def test_a_sleeping_program_waits(echion: Echion, any_python: Interpreter) -> None:
    command = [any_python.path, "-c", "import time; time.sleep(1.5)"]
    result = echion.run(command, *OPTIONS).check()
    on_cpu, _, waiting = figures(result)
    assert on_cpu <= AROUND_US
    assert waiting >= 1.4e6


def test_a_program_that_shares_its_cpu_is_runnable(echion: Echion, any_python: Interpreter) -> None:
    cpu = str(min(os.sched_getaffinity(0)))
    busy = [any_python.path, "-c", BUSY]
    with subprocess.Popen(["taskset", "-c", cpu, "sh", "-c", "while :; do :; done"]) as hog:
        try:
            result = echion.run(["taskset", "-c", cpu, *busy], *OPTIONS).check()
        finally:
            hog.kill()
    on_cpu, runnable, waiting = figures(result)
    print(on_cpu, runnable, waiting)
    before, after = map(int, result.stdout.split())
    assert after >= before + 300_000
    assert 0.97 * (after - before) <= runnable <= after + AROUND_US
    assert waiting <= 0.2 * (on_cpu + runnable + waiting)
