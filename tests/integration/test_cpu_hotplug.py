"""CPUs that go offline and come back while a target is sampled.

Long form only, as root: the machine is without one of its CPUs meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Iterator

import pytest

from conftest import LONG
from interpreters import Interpreter
from runner import TARGETS, Echion, Result

pytestmark = pytest.mark.alone  # it changes what holds for the whole machine

SECONDS = 6
OFFLINE_S = 1.2
TICK_US = 1000
CPU_TOLERANCE = {"bpf": 0.01, "perf": 0.03, "clock": 0.03}
CPU_ALLOWANCE_US = 1500  # a thread's work before and after its function


class Cpu:
    """One that can be taken offline."""

    def __init__(self, switch: pathlib.Path):
        self._switch = switch

    def set_online(self, online: bool) -> None:
        self._switch.write_text("1" if online else "0")

    def interrupt(self, seconds: float) -> None:
        """Offline for so long."""
        self.set_online(False)
        time.sleep(seconds)
        self.set_online(True)


@pytest.fixture
def cpu(needs_root: None) -> Iterator[Cpu]:
    if not LONG:
        pytest.skip("takes a CPU from the machine: ECHION_TEST_LONG=1")
    usable = sorted(os.sched_getaffinity(0))
    # The last is the one that echion's own clock of wall time is on.
    switch = pathlib.Path(f"/sys/devices/system/cpu/cpu{usable[-1]}/online")
    if len(usable) < 2 or not switch.exists():
        pytest.skip("there is no CPU that may go offline")
    one = Cpu(switch)
    try:
        one.set_online(True)
    except OSError as error:
        pytest.skip(f"{switch}: {error.strerror}")
    try:
        yield one
    finally:
        one.set_online(True)


@contextlib.contextmanager
def busy_cpus() -> Iterator[None]:
    """Something to run for every CPU, after everything else: perf's ticks stay out on idle ones."""
    command = ["nice", "-n", "19", sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def sample(
    echion: Echion,
    python: Interpreter,
    cpu: Cpu,
    offline_s: list[float],
    *options: str,
    target: list[str],
) -> Result:
    command = [python.path, str(TARGETS / f"{target[0]}.py"), *target[1:], str(SECONDS)]
    with echion.start(command, "-v", "-i", str(TICK_US), *options) as running:
        running.wait_ready()
        for seconds in offline_s:
            cpu.interrupt(seconds)
        return running.finish().check()


def test_wall_time_is_whole(echion: Echion, any_python: Interpreter, engine: str, cpu: Cpu) -> None:
    offline_s = [OFFLINE_S, 0.0]
    result = sample(echion, any_python, cpu, offline_s, "--engine", engine, target=["shares"])
    profile, lifetimes = result.profile, result.report["lifetimes"]
    worked = profile.total_with("main", thread="MainThread")
    slept = profile.total_with("sleeper", thread="sleeper")
    assert worked == pytest.approx(lifetimes["work"] * 1e6, rel=0.03)
    assert slept == pytest.approx(lifetimes["sleeper"] * 1e6, rel=0.03)
    assert profile.figure("ticks") > 0.3 * profile.figure("duration") / TICK_US
    assert profile.figure("invalid") == profile.figure("ring_full_ticks") == 0
    # The sampler may stand on the CPU that goes away, or want to go there: it gets over it.
    assert profile.figure("torn_marked") <= 0.01 * profile.figure("ticks")
    assert profile.figure("unproved") <= 0.25 * profile.figure("ticks")


def test_the_kernel_ticks_again(
    echion: Echion, any_python: Interpreter, engine: str, cpu: Cpu
) -> None:
    """Also after a CPU that has been offline for a moment only, unseen."""
    if engine != "bpf":
        pytest.skip("nothing of the kernel's ticks there")
    with busy_cpus():
        options = ["--engine", engine]
        result = sample(echion, any_python, cpu, [0.0], *options, target=["shares"])
    signals = re.search(r"bpf signals +(\d+)", result.stderr)
    assert signals, result.stderr
    # Without, there are none after the first moments. Within two seconds there are again.
    assert int(signals[1]) > 0.4 * result.profile.figure("duration") / TICK_US


@pytest.mark.parametrize("kind", ["busy", "bursts"])
def test_cpu_time_is_the_kernel_s(
    echion: Echion, any_python: Interpreter, cpu_engine: str, cpu: Cpu, kind: str
) -> None:
    options = ["-c", "--engine", cpu_engine]
    target = ["cpu_figures", kind]
    result = sample(echion, any_python, cpu, [OFFLINE_S, 0.0], *options, target=target)
    totals = result.profile.thread_totals()
    for name, figures in result.report["threads"].items():
        seen = totals.get(name, 0) + totals.get(f"thread-{figures['tid']}", 0)
        wanted = pytest.approx(
            figures["cpu_us"], rel=CPU_TOLERANCE[cpu_engine], abs=CPU_ALLOWANCE_US
        )
        assert seen == wanted, f"{name}: {totals}"
    if kind == "busy":
        used_us = sum(figures["cpu_us"] for figures in result.report["threads"].values())
        assert result.profile.figure("ticks") > 0.3 * used_us / TICK_US
