"""However the program ends, its status passes through and what was sampled is written."""

import json
import os
import select
import signal
import subprocess
import sys
import time

import pytest

from attach_support import Target
from runner import TARGETS, TIMEOUT_S

WAYS = json.loads(
    subprocess.check_output([sys.executable, str(TARGETS / "endings.py"), "--list"], text=True)
)
SECONDS = 0.3
AT_LEAST = 0.6
TOLD_ABOUT = {"exception": "RuntimeError: on purpose"}


@pytest.mark.parametrize("way", WAYS)
def test_the_status_passes_through_and_the_profile_is_written(echion, python, way):
    result = echion.run_target(
        python, "endings", way, str(SECONDS), options=["-i", "1000"], timeout=30
    )
    assert result.returncode == WAYS[way], result.stderr
    assert TOLD_ABOUT.get(way, "") in result.stderr
    profile = result.profile
    assert "duration" in profile.footer, "the profile has no end"
    # Not all of it: the last tick may have been late.
    # What a sampler that did not get a CPU has missed, the profile says.
    seen = profile.total_with("before_the_end", "spin") + profile.figure("missed_us")
    assert seen >= AT_LEAST * SECONDS * 1e6


def test_a_child_that_goes_on_leaves_the_parents_stacks_alone(echion, python):
    """The parent's own time stays its own, with a forked child busy in the same functions."""
    result = echion.run_target(
        python, "endings", "fork_and_work", str(SECONDS), options=["-i", "1000"]
    ).check()
    by_process = {}
    for sample in result.profile.samples:
        if sample.has("fork_and_work", "before_the_end"):
            by_process[sample.pid] = by_process.get(sample.pid, 0) + sample.metric
    first = result.profile.samples[0].pid
    # Of CPU time it is SECONDS; the two share the machine with whatever else runs.
    assert AT_LEAST * SECONDS <= by_process[first] / 1e6 <= result.report["wall_s"] + 0.05


def test_what_comes_after_exec_does_not_spoil_what_was_before(echion, python):
    result = echion.run_target(python, "endings", "exec_python", str(SECONDS))
    assert result.returncode == 9
    seen = result.profile.total_with("before_the_end") + result.profile.figure("missed_us")
    assert seen >= AT_LEAST * SECONDS * 1e6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_to_echion_reaches_the_command(echion, any_python, number):
    target = [any_python.path, str(TARGETS / "endings.py"), "returns", "30"]
    with echion.start(target) as running:
        running.wait_ready()
        os.kill(running.process.pid, number)
        result = running.finish(30)
    # Python turns SIGINT into KeyboardInterrupt, and then ends itself by that signal.
    assert result.returncode == 128 + number
    assert result.profile.total_with("before_the_end") >= 0
    assert "duration" in result.profile.footer


def test_the_terminals_interrupt_ends_both_and_the_profile_is_written(echion, any_python):
    target = [any_python.path, str(TARGETS / "endings.py"), "returns", "30"]
    with echion.start(target) as running:
        running.wait_ready()
        os.killpg(running.process.pid, signal.SIGINT)
        result = running.finish(30)
    assert result.returncode == 128 + signal.SIGINT
    assert result.profile.header["mode"] == "wall"


def test_the_target_survives_the_death_of_echion(echion, any_python, tmp_path):
    """Killed by SIGKILL, echion leaves a program that works on and ends as it would have."""
    report = tmp_path / "survivor.json"
    target = [any_python.path, str(TARGETS / "shares.py"), "1"]
    with echion.start(target, env={"ECHION_TEST_REPORT": str(report)}) as running:
        pid = running.wait_ready()
        watch = os.pidfd_open(pid)
        running.process.kill()
        running.process.wait()
        try:
            poll = select.poll()
            poll.register(watch, select.POLLIN)
            assert poll.poll(20_000), "the target hangs"
        finally:
            os.close(watch)
    assert json.loads(report.read_text())["spent"]["sixty"] > 0.3


def wait_for_descriptors(target, wanted):
    """One that is held only for a moment, as the test's own pipe is, is no fault."""
    deadline = time.monotonic() + TIMEOUT_S
    while (now := target.descriptors()).keys() != wanted:
        assert time.monotonic() < deadline, f"{now} are left, instead of {wanted}"
        time.sleep(0.01)


RENDEZVOUS = "900"
# Its standard streams are all it has. ctypes would have a descriptor of libffi's.
WAITS = """
import sys
sys.path.insert(0, sys.argv[1])
import _support
_support.ready()
sys.stdin.read()
"""


@pytest.mark.parametrize("ending", ["killed", "exposure"])
def test_when_echion_has_left_no_descriptor_is_left(echion, python, ending):
    command = [python.path, "-c", WAITS, TARGETS]
    options = ["-x", "0.2"] if ending == "exposure" else []
    with echion.start(command, *options, stdin=subprocess.PIPE) as running:
        target = Target(running.process, running.wait_ready(), echion.folder)
        if ending == "killed":
            target.wait_until_sampled()
            assert RENDEZVOUS in target.descriptors(), "not a descriptor that this test is about"
            running.process.kill()
        wait_for_descriptors(target, {"0", "1", "2"})
        assert target.threads() == {target.pid}


def test_a_descriptor_that_the_program_has_since_is_its_own(echion, any_python):
    """The number of ours, closed by the program and given to a socket of its own, stays open."""
    code = (
        "import os, signal, socket, sys; sys.path.insert(0, sys.argv[1]); import _support\n"
        "mine, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        f"os.dup2(mine.fileno(), {RENDEZVOUS})\n"
        "_support.ready(); signal.pause()"
    )
    with echion.start([any_python.path, "-c", code, TARGETS]) as running:
        target = Target(running.process, running.wait_ready(), echion.folder)
        target.wait_until_sampled()
        before = target.descriptors()[RENDEZVOUS]
        running.process.kill()
        target.wait_for_threads({target.pid})
        assert target.descriptors()[RENDEZVOUS] == before


def test_a_python_that_starts_after_one_has_ended_is_sampled(echion, any_python):
    """By a shell, and by a Python whose own sampler has been ended by exec."""
    again = f"'{any_python.path}' '{TARGETS / 'shares.py'}' 0.5"
    script = f"{again}; '{any_python.path}' -c 'import os; os.system(\"{again}\")'; {again}"
    result = echion.run(["sh", "-c", script]).check()
    assert len({one.pid for one in result.profile.samples if one.has("sixty")}) == 3


def test_sampling_stops_after_the_exposure_and_the_command_goes_on(echion, any_python):
    result = echion.run_target(any_python, "shares", "3", options=["-x", "1"]).check()
    assert result.report["lifetimes"]["work"] >= 3
    assert result.profile.figure("duration") <= 2e6


def test_a_program_that_ends_at_once_keeps_its_status(echion, every_python):
    """There may be nothing to sample; that is no failure of the command."""
    for status in (0, 3) * 3:
        result = echion.run([every_python.path, "-S", "-c", f"raise SystemExit({status})"])
        assert result.returncode == status, result.stderr


def test_a_few_milliseconds_of_work_are_in_the_profile(echion, python):
    """Python's start is noticed at once: what runs until then is missing."""
    script = (
        "import time\n"
        "def work():\n"
        "    end = time.perf_counter() + 0.005\n"
        "    while time.perf_counter() < end: pass\n"
        "work()\n"
    )
    seen = 0
    for runs in range(1, 21):
        result = echion.run([python.path, "-I", "-S", "-c", script], "-i", "500us").check()
        seen += result.profile.total_with("work") > 0
        if seen >= 5:
            return
    raise AssertionError(f"seen in {seen} of {runs} runs")
