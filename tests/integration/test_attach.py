"""Attaching to a process that runs already, and leaving it as it was."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

import whereabouts
from attach_support import start_target, target_command
from profile_text import Profile
from runner import TARGETS

pytestmark = pytest.mark.usefixtures("needs_root")

FREE_THREADED = True  # see conftest.py
KINDS = [
    "sleep",
    "lock_with_timeout",
    "select_with_timeout",
    "epoll_with_timeout",
    "sigtimedwait",
    "subprocess_wait",
    "read_pipe",
    "c_loop",
    "raw_nanosleep",
    "raw_poll",
    "raw_read",
    "raw_recv_with_timeout",
    "raw_endless_epoll",
    "raw_sem_timedwait",
]
CYCLES = 2
SECONDS = "1.5"  # of the calls that end by themselves


@pytest.fixture
def target(tmp_path):
    """Starts targets; see attach_support.start_target."""
    return lambda *arguments, **keywords: start_target(tmp_path, *arguments, **keywords)


def attach(echion, pid, *options, **keywords):
    return echion.run(["-p", str(pid)], *options, **keywords)


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_call_returns_what_it_would_have(echion, python, target, kind):
    with target(target_command(python, "waits", kind, SECONDS)) as waiting:
        for _ in range(CYCLES):
            attach(echion, waiting.pid, "-x", "0.02", "--engine", "clock").check()
        report = waiting.finish()
    assert report["got"] == report["wanted"]
    assert not report["too_short"], report


def test_a_deadlock_shows_in_the_profile(echion, python, tmp_path):
    """Two threads wait for each other's lock for ever; the main thread waits for them."""
    with whereabouts.start_target(python, tmp_path, "deadlocked") as target:
        result = attach(echion, target.wait_ready(), "-x", "0.3").check()
    samples = [sample for sample in result.profile.samples if sample.frames]
    innermost = {sample.thread: sample.frames[-1] for sample in samples}
    source = (TARGETS / "whereabouts.py").read_text().splitlines()
    for name in ("one", "two"):
        assert innermost[name].name == "take_the_other"
        assert source[innermost[name].line - 1].strip() == "other.acquire()"
    assert any("wait_for_the_others" in sample.names for sample in samples)


def test_profile_shows_where_the_target_was(echion, python, target):
    with target(target_command(python, "waits", "read_pipe")) as waiting:
        waiting.wait_for_call(0)
        result = attach(echion, waiting.pid, "-x", "0.3").check()
        waiting.finish()
    assert result.profile.total_with("main", "read_pipe", thread="MainThread") > 200_000


def test_nothing_is_left_but_the_mapped_library(echion, python, target, build_dir):
    with target(target_command(python, "waits", "read_pipe")) as waiting:
        waiting.wait_for_call(0)
        threads, descriptors = waiting.threads(), waiting.descriptors()
        mapped = waiting.mapped_bytes()
        for _ in range(5):
            attach(echion, waiting.pid, "-x", "0.02").check()
            waiting.wait_for_threads(threads)
            assert waiting.descriptors() == descriptors
        libraries = open(f"/proc/{waiting.pid}/maps").read().count("r-xp") - 1
        growth = waiting.mapped_bytes() - mapped
        report = waiting.finish()
    # The library, and the stacks of the agent's ended threads, which the C library keeps.
    library = (build_dir / "libechion.so").stat().st_size
    assert growth < library + (11 << 17), f"{growth} more bytes are mapped ({libraries} code ranges)"
    assert report["got"] == report["wanted"]


def test_busy_service_notices_nothing(echion, python, target):
    with target(target_command(python, "production", "light")) as service:
        for _ in range(5):
            attach(echion, service.pid, "-x", "0.1", "-i", "500").check()
        report = service.finish()
    assert report["faults"] == []
    assert report["alarms"] > 0 and all(report["rounds"].values())


def test_killed_echion_leaves_a_target_that_can_be_attached_again(echion, python, target):
    with target(target_command(python, "production", "light")) as service:
        for delay in (0.002, 0.01, 0.03, 0.06, 0.15):
            with echion.start(["-p", str(service.pid)]) as running:
                try:
                    running.process.wait(delay)
                except subprocess.TimeoutExpired:
                    pass
                running.kill()
                running.process.wait()
            assert service.is_alive()
        result = attach_when_free(echion, service)
        report = service.finish()
    assert report["faults"] == []
    assert result.profile.samples


def attach_when_free(echion, target):
    """The agent of an echion that was killed needs a moment to notice."""
    for _ in range(200):
        result = attach(echion, target.pid, "-x", "0.1")
        if "already" not in result.stderr:
            break
    return result.check()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_ends_sampling_and_not_the_target(echion, any_python, target, number):
    with target(target_command(any_python, "waits", "read_pipe")) as waiting:
        with echion.start(["-p", str(waiting.pid)]) as running:
            waiting.wait_until_sampled()
            running.process.send_signal(number)
            result = running.finish().check()
        assert "duration" in result.profile.footer
        report = waiting.finish()
    assert report["got"] == report["wanted"]


# When the signal is sent, from before the attachment to after it. None of them is a moment of
# echion's own: what it has done by then differs from run to run.
MOMENTS = {
    "output opened": lambda running, target: running._result.output.exists(),
    "first thread": lambda running, target: len(target.threads()) > 1,
    "second thread": lambda running, target: len(target.threads()) > 2,
    "20 ticks": lambda running, target: target.wait_until_sampled() is None,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_signal_near_the_attachment_ends_with_a_profile_or_with_its_number(
    echion, any_python, target, moment
):
    seen = set()
    with target(target_command(any_python, "waits", "read_pipe")) as waiting:
        for _ in range(10):
            before = waiting.threads()
            with echion.start(["-p", str(waiting.pid)]) as running:
                while not MOMENTS[moment](running, waiting):
                    assert running.process.poll() is None
                running.process.send_signal(signal.SIGTERM)
                result = running.finish()
            seen.add(result.returncode)
            if result.returncode == 0:
                profile = result.profile  # one without samples is all header to its reader
                assert "duration" in {**profile.header, **profile.footer}
            else:
                assert result.returncode == 128 + signal.SIGTERM, result.stderr
                assert not result.output.exists() and result.stderr.count("\n") == 1
            waiting.wait_for_threads(before)
        waiting.finish()
    if moment == "20 ticks":
        assert seen == {0}


def test_target_that_ends_leaves_a_complete_profile(echion, any_python, target):
    with target(target_command(any_python, "waits", "read_pipe")) as waiting:
        with echion.start(["-p", str(waiting.pid)]) as running:
            waiting.wait_until_sampled()
            waiting.finish()
            result = running.finish().check()
    assert "has ended" in result.stderr
    assert "duration" in result.profile.footer


def test_second_echion_is_refused_and_the_first_goes_on(echion, any_python, target):
    with target(target_command(any_python, "waits", "read_pipe")) as waiting:
        with echion.start(["-p", str(waiting.pid)]) as running:
            waiting.wait_until_sampled()
            second = attach(echion, waiting.pid, "-x", "0.1")
            assert second.returncode == 1
            assert "already" in second.stderr and second.stderr.count("\n") == 1
            assert not second.output.exists()
            running.process.send_signal(signal.SIGINT)
            running.finish().check()
        waiting.finish()


def test_launched_process_can_be_attached_once_its_own_sampling_ended(echion, any_python, target):
    options = ["-x", "0.05", "-o", os.devnull]
    command = [str(echion.program), *options, *target_command(any_python, "waits", "read_pipe")]
    with target(command) as waiting:
        result = attach_when_free(echion, waiting)
        assert Profile.read(result.output).samples
        waiting.finish()


def test_target_that_executes_another_program_meanwhile(echion, any_python, target):
    """That ends sampling, and is told."""
    awaits = {"ECHION_TEST_AWAIT_SAMPLER": "1"}
    command = target_command(any_python, "executes", "once", "/bin/sleep", "600")
    with target(command, env=awaits) as waiting:
        result = attach(echion, waiting.pid, "-x", "600").check()
        assert os.readlink(f"/proc/{waiting.pid}/exe") != os.path.realpath(any_python.path)
        waiting.wait_for_threads({waiting.pid})
    assert f"process {waiting.pid} has executed another program" in result.stderr
    assert result.profile.total_with("spin") > 0
    assert "duration" in result.profile.footer


@pytest.mark.parametrize("seconds", ["0", "0.05"])
def test_target_that_executes_without_pause_is_told_as_that(echion, any_python, target, seconds):
    with target(target_command(any_python, "executes", "always", seconds)) as restless:
        for _ in range(10):
            result = attach(echion, restless.pid, "-x", "0.3")
            told = result.stderr
            if result.returncode == 0:
                # A first tick has been taken; there may be no time between two.
                assert result.profile.header["mode"] == "wall"
                assert "has executed another program, which is not sampled" in told or told == ""
                continue
            assert result.returncode == 1 and told.count("\n") == 1, told
            assert not result.output.exists()
            begun = "has not started Python yet" in told or "has not loaded it yet" in told
            assert "another program" in told or begun, told
        assert restless.process.poll() is None


def test_target_that_ends_is_not_told_to_have_executed_a_program(echion, any_python, target):
    """Whenever that is: before the first look, in the midst of the search, before the first sample."""
    for i in range(20):
        code = f"import sys, time; print('r', flush=True); time.sleep({0.004 * i}); sys.exit(9)"
        with subprocess.Popen([any_python.path, "-c", code], stdout=subprocess.PIPE) as ending:
            assert ending.stdout.readline() == b"r\n"
            result = attach(echion, ending.pid)
            assert ending.wait(60) == 9
        told = result.stderr
        if result.returncode == 0:
            assert result.profile.header["mode"] == "wall"
            assert "has ended; what was sampled" in told, told
            continue
        assert result.returncode == 1 and told.count("\n") == 1, told
        assert not result.output.exists()
        assert f"process {ending.pid} (" in told, told
        assert "ended while attaching" in told or "has ended: its parent" in told, told
