"""kernel.perf_event_max_sample_rate, which root or the kernel itself may lower at any time."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Iterator

import pytest

from interpreters import Interpreter
from runner import TARGETS, Echion

pytestmark = pytest.mark.alone  # it changes what holds for the whole machine

LIMIT = pathlib.Path("/proc/sys/kernel/perf_event_max_sample_rate")
LOW = 100


@contextlib.contextmanager
def lowered() -> Iterator[None]:
    before = LIMIT.read_text()
    try:
        try:
            LIMIT.write_text(f"{LOW}\n")
        except OSError as error:
            pytest.skip(f"{LIMIT} cannot be set: {error}")
        yield
    finally:
        with contextlib.suppress(OSError):
            LIMIT.write_text(before)


@pytest.fixture
def kernel_engine(cpu_engine: str, needs_root: None) -> str:
    if cpu_engine == "clock":
        pytest.skip("nothing of the kernel's ticks there")
    return cpu_engine


def test_the_header_has_the_interval_that_is_used(
    echion: Echion, any_python: Interpreter, kernel_engine: str
) -> None:
    options = ["-c", "-i", "1000", "--engine", kernel_engine]
    with lowered():
        result = echion.run_target(any_python, "busy", "5", "40", options=options).check()
    assert result.profile.header["interval"] == "10000"
    assert "one tick in 10000 us" in result.stderr
    assert "lowered_tick_rate" not in result.profile.footer


def test_a_limit_that_falls_during_the_run_is_told(
    echion: Echion, any_python: Interpreter, kernel_engine: str
) -> None:
    command = [any_python.path, str(TARGETS / "busy.py"), "5", "200"]
    options = ["-c", "-i", "1000", "--engine", kernel_engine]
    with echion.start(command, *options) as running:
        running.wait_ready()
        with lowered():
            result = running.finish().check()
    assert result.profile.header["interval"] == "1000"
    assert result.profile.figure("lowered_tick_rate") == LOW
    told = [line for line in result.stderr.splitlines() if "perf_event_max_sample_rate" in line]
    assert len(told) == 1 and "10000 us apart" in told[0]
