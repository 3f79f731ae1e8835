"""A machine that has just booted, or a container with a time namespace of its own: the monotonic
clock begins near 0, so that time 0 is a moment ago and not "never"."""

from __future__ import annotations

import subprocess
import time

import pytest

from attach_support import start_target
from runner import TARGETS, why_not

# Beginning so long before the program under test.
AGE_S = 1

# Burns CPU time in a thread with a name; tells the process's, and that thread's, and ends on the
# spot: what an orderly end takes would be in no figure of its own.
PROGRAM = """
import os, threading, time
def burn():
    global used
    while time.thread_time() < 0.3: pass
    used = time.thread_time()
thread = threading.Thread(target=burn, name="burner")
thread.start()
thread.join()
print(time.process_time(), used, flush=True)
os._exit(0)
"""


@pytest.fixture(scope="session")
def young():
    """What runs a command on a clock that has just begun."""
    wrap = ["unshare", "--time"]
    for clock, now in (
        ("monotonic", time.clock_gettime(time.CLOCK_MONOTONIC)),
        ("boottime", time.clock_gettime(time.CLOCK_BOOTTIME)),
    ):
        wrap.append(f"--{clock}={AGE_S - int(now)}")
    try:
        tried = subprocess.run([*wrap, "true"], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if tried.returncode:
        pytest.skip(f"no time namespaces: {tried.stderr.strip()}")
    return wrap


def cpu_us(result):
    """CPU time that the profile tells of, the sampler's too, and what the program itself says."""
    told = sum(sample.metric for sample in result.profile.samples)
    return told, float(result.stdout.split()[0]) * 1e6


def test_the_timers_of_ticks(build_dir, young):
    """With an interval of an hour the clock is younger than any gap between ticks."""
    tests = [*young, str(build_dir / "tests/unit/tick_timer_test"), "--gtest_brief=1"]
    done = subprocess.run(tests, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("engine", ["clock", "perf"])
def test_a_launch_accounts_for_all_cpu_time(echion, any_python, young, engine):
    program = [any_python.path, "-c", PROGRAM]
    tried = echion.run(program, "-c", "-i", "1ms", "--engine", engine, wrap=young)
    if tried.returncode and engine == "perf" and "cannot be had" in tried.stderr:
        pytest.skip(tried.stderr.strip())
    told, used = cpu_us(tried.check())
    assert told == pytest.approx(used, rel=0.1)
    assert tried.profile.figure("duration") < 60e6
    assert any("burner" in sample.thread for sample in tried.profile.samples)


def test_looking_at_a_process(build_dir, any_python, young):
    with subprocess.Popen(
        [any_python.path, "-c", "print('ready', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as target:
        assert target.stdout.readline() == b"ready\n"
        command = [str(build_dir / "echion"), "-w", str(target.pid), "-x", "0.1"]
        shown = subprocess.run([*young, *command], capture_output=True, text=True, timeout=60)
        target.stdin.close()
    assert shown.returncode == 0, shown.stderr
    assert "MainThread" in shown.stderr


# How far another clock is ahead of the machine's, in seconds; a run takes some.
AHEAD_S = 900
# Time by the kernel's clock and by the program's, told of in one profile, would differ by that.
MOST_DURATION_US = AHEAD_S * 1e6 / 10


@pytest.fixture(params=["ahead", "behind"])
def other_clock(request, young):
    """What runs a command whose clock is not the machine's."""
    if request.param == "behind":
        return young
    return ["unshare", "--time", f"--monotonic={AHEAD_S}", f"--boottime={AHEAD_S}"]


@pytest.fixture(params=["wall", "cpu"])
def mode(request):
    return ["-c"] if request.param == "cpu" else []


def check_times(result, burner_us):
    """One clock: no time of the kernel's is compared with one of the program's."""
    assert "without BPF" not in result.stderr
    profile = result.profile
    assert profile.figure("duration") < MOST_DURATION_US
    burnt = sum(sample.metric for sample in profile.samples if "burner" in sample.thread)
    assert burnt > 0
    if profile.header["mode"] == "cpu":
        assert burnt == pytest.approx(burner_us, rel=0.15)
    else:
        figures = [profile.figure(key) for key in ("on_cpu", "runnable", "waiting")]
        assert max(figures) < MOST_DURATION_US
        # What was used after the last tick is not in it; what the main thread did beside it is.
        assert 0.75 * burner_us < figures[0] < 2 * burner_us


def skip_without_bpf(echion):
    if reason := why_not("bpf", echion.program):
        pytest.skip(reason)


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_bpf_with_a_clock_that_is_not_the_kernels(echion, any_python, other_clock, mode, place):
    """BPF programs know no time namespace: their times are the machine's, the sampler's the
    program's. echion is in the namespace, too, or outside of it."""
    skip_without_bpf(echion)
    program = [any_python.path, "-c", PROGRAM]
    command = program if place == "inside" else [*other_clock, *program]
    wrap = other_clock if place == "inside" else ()
    result = echion.run(command, *mode, "-i", "1ms", "--engine", "bpf", wrap=wrap).check()
    check_times(result, float(result.stdout.split()[1]) * 1e6)


BURNS_WHEN_ATTACHED = """
import sys; sys.path.insert(0, sys.argv[1])
import ctypes, os, threading, time
if sys.argv[2:]:
    if ctypes.CDLL(None, use_errno=True).unshare(0x80) != 0:  # CLONE_NEWTIME
        raise SystemExit(f"unshare: {ctypes.get_errno()}")
    with open("/proc/self/timens_offsets", "w") as offsets:
        offsets.write(f"monotonic {sys.argv[2]} 0")
import _support
_support.ready()
def burn():
    global used
    while time.thread_time() < 0.3: pass
    used = time.thread_time()
thread = threading.Thread(target=burn, name="burner")
thread.start()
thread.join()
_support.report(burner_us=used * 1e6)
"""


def attach_and_burn(echion, python, tmp_path, options, wrap=(), children_ahead=()):
    command = [*wrap, python.path, "-c", BURNS_WHEN_ATTACHED, TARGETS, *children_ahead]
    env = {"ECHION_TEST_AWAIT_SAMPLER": "1"}
    with start_target(tmp_path, command, env=env) as target:
        result = echion.run(["-p", str(target.pid)], "-i", "1ms", *options)
        return result, target.finish()["burner_us"] if result.returncode == 0 else 0


def test_attaching_with_bpf_to_another_clock(echion, any_python, tmp_path, other_clock, mode):
    skip_without_bpf(echion)
    options = [*mode, "--engine", "bpf"]
    result, burner_us = attach_and_burn(echion, any_python, tmp_path, options, other_clock)
    check_times(result.check(), burner_us)


BUSY = "import sys; sys.path.insert(0, sys.argv[1]); import _support; _support.ready()\nwhile True: pass"


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_what_echion_itself_reads_in_the_kernels_table(
    echion, any_python, tmp_path, other_clock, place
):
    """At the end of a run echion asks it for each living thread's time on a CPU and without one: this
    thread has one of the two at any moment, and what is of it since the last switch is added."""
    skip_without_bpf(echion)
    with start_target(tmp_path, [any_python.path, "-c", BUSY, TARGETS]) as target:
        options = ["-i", "1ms", "-x", "0.3", "--engine", "bpf"]
        wrap = other_clock if place == "inside" else ()
        profile = echion.run(["-p", str(target.pid)], *options, wrap=wrap).check().profile
        assert profile.figure("on_cpu") > 0
        assert max(profile.figure(key) for key in ("on_cpu", "runnable")) < MOST_DURATION_US


def test_a_clock_for_children_is_not_the_programs_own(echion, any_python, tmp_path, young):
    """/proc tells of the one that the children will have; the program's own is echion's."""
    skip_without_bpf(echion)
    options = ["-c", "--engine", "bpf"]
    ahead = [str(AHEAD_S)]
    result, burner_us = attach_and_burn(echion, any_python, tmp_path, options, (), ahead)
    check_times(result.check(), burner_us)


def test_a_clock_that_cannot_be_known_is_not_the_kernels(echion, any_python, tmp_path, young):
    """The program's own is not echion's, and /proc tells of its children's alone."""
    skip_without_bpf(echion)
    ahead = [str(AHEAD_S)]
    result, _ = attach_and_burn(echion, any_python, tmp_path, ["--engine", "bpf"], young, ahead)
    assert result.returncode != 0 and "cannot be read" in result.stderr
    result, _ = attach_and_burn(echion, any_python, tmp_path, [], young, ahead)
    assert "is sampled without BPF: it has made a time namespace" in result.check().stderr
    assert result.profile.figure("duration") < MOST_DURATION_US
