"""CPU mode without BPF: perf events on the target's threads, as an ordinary user may have them."""

from __future__ import annotations

import os
import sys

import pytest

from attach_support import start_target, target_command
from conftest import NOBODY, PYTHON
from runner import TARGETS, Echion

WITHOUT_EVENTS = [sys.executable, str(TARGETS / "without_perf_events.py")]
ON_X86_64 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is for x86-64")

# As much in user mode as in the kernel, where an ordinary user's events do not tick.
BURN = """
import os, threading, time
def until(work, seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        work()
def compute():
    for _ in range(20000): pass
def read():
    for _ in range(20): zero.read(1 << 20)
zero = open("/dev/zero", "rb", buffering=0)
def later():
    until(compute, 0.3)
for _ in range(3):
    until(compute, 0.1)
    until(read, 0.1)
thread = threading.Thread(target=later, name="later")
thread.start()
thread.join()
"""


def test_an_ordinary_user_has_perf_events(nobodys: Echion, needs_users_perf: None) -> None:
    result = nobodys.run([PYTHON, "-c", BURN], "-c", "-v", wrap=NOBODY).check()
    profile = result.profile
    assert profile.header["engine"] == "perf"
    assert "without BPF: " in result.stderr and "remedy: " in result.stderr
    # The thread that began later ticks as well: its stacks are there, not only its time.
    main_us, later_us = (
        {name: profile.total_with("until", *name, thread=thread) for name in ((), ("compute",), ("read",))}
        for thread in ("MainThread", "later")
    )
    assert main_us[()] == pytest.approx(600_000, rel=0.1)
    assert later_us[()] == pytest.approx(300_000, rel=0.1)
    assert later_us[("compute",)] > 0.5 * later_us[()]
    # What is done in the kernel does not show as what comes next.
    assert main_us[("read",)] == pytest.approx(main_us[("compute",)], rel=0.35)
    assert profile.figure("ticks") > 200


@ON_X86_64
def test_without_perf_events_it_is_the_clock(nobodys: Echion) -> None:
    wrap = [*WITHOUT_EVENTS, *NOBODY]
    result = nobodys.run([PYTHON, "-c", BURN], "-c", "-v", wrap=wrap).check()
    assert result.profile.header["engine"] == "nanosleep"
    assert result.profile.total_with("until") > 600_000
    assert "without perf events: " in result.stderr and "seccomp" in result.stderr


@ON_X86_64
@pytest.mark.parametrize("engine", ["perf", "bpf"])
def test_an_engine_that_is_refused_is_told_in_one_line(nobodys: Echion, engine: str) -> None:
    wrap = [*WITHOUT_EVENTS, *NOBODY]
    result = nobodys.run([PYTHON, "-c", "pass"], "-c", "--engine", engine, wrap=wrap)
    assert result.returncode == 1
    assert result.stderr.startswith(f"echion: --engine {engine} cannot be had: ")
    assert result.stderr.count("\n") == 1 and "leave --engine out" in result.stderr
    assert not result.output.exists()


def test_wall_time_has_no_perf_engine(echion: Echion) -> None:
    result = echion.run([PYTHON, "-c", "pass"], "--engine", "perf")
    assert result.returncode == 2 and "-c" in result.stderr


def test_the_target_gets_no_descriptors_and_keeps_nothing(
    echion: Echion, any_python, needs_root, needs_perf, tmp_path
) -> None:
    with start_target(tmp_path, target_command(any_python, "waits", "read_pipe")) as service:
        service.wait_for_call(0)
        threads, descriptors, mapped = service.threads(), service.descriptors(), None
        for _ in range(5):
            options = ["-c", "-x", "0.1", "-i", "500", "--engine", "perf"]
            result = echion.run(["-p", str(service.pid)], *options).check()
            assert result.profile.header["engine"] == "perf"
            service.wait_for_threads(threads)
            assert service.descriptors() == descriptors
            mapped = mapped or service.mapped_bytes()
        growth = service.mapped_bytes() - mapped
        report = service.finish()
    assert report["got"] == report["wanted"]
    assert growth < 1 << 20
