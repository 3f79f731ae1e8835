"""A machine that has just booted, or a container with a time namespace of its own: the monotonic
clock begins near 0, so that time 0 is a moment ago and not "never"."""

from __future__ import annotations

import subprocess
import time

import pytest

from runner import why_not

# Beginning so long before the program under test.
AGE_S = 1

# Burns CPU time in a thread with a name; tells the process's.
PROGRAM = """
import threading, time
def burn():
    while time.thread_time() < 0.3: pass
thread = threading.Thread(target=burn, name="burner")
thread.start()
thread.join()
print(time.process_time())
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
    return told, float(result.stdout) * 1e6


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


def test_the_kernels_clock_is_not_mixed_with_the_programs(echion, any_python, young):
    """BPF programs know no time namespace. They do not account for a process that reads another
    clock: its profile had the kernel's uptime for its duration."""
    if reason := why_not("bpf", echion.program):
        pytest.skip(reason)
    program = [*young, any_python.path, "-c", PROGRAM]
    result = echion.run(program, "-c").check()
    assert "is sampled without BPF: it is in a time namespace" in result.stderr
    told, used = cpu_us(result)
    assert told == pytest.approx(used, rel=0.1)
    assert result.profile.figure("duration") < 60e6
    refused = echion.run(program, "-c", "--engine", "bpf")
    assert "the clock is" in refused.stderr and "the kernel's" in refused.stderr
    refused = echion.run([any_python.path, "-c", PROGRAM], "-c", "--engine", "bpf", wrap=young)
    assert refused.returncode != 0
    assert "echion's own clock is another" in refused.stderr
