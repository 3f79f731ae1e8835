"""A program's descriptor numbers are its own: with standard streams that are closed, and while
it is sampled. The agent's two ways are both tried: a descriptor table of its own, and the
program's where the kernel gives it none."""

from __future__ import annotations

import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import pytest

from attach_support import start_target
from runner import TARGETS, TIMEOUT_S

REDIRECTIONS = ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"]
FILTER = TARGETS / "without_calls.py"
# Refused system calls: none, so that close_range(2) is used; then unshare(2); then nothing is left.
TABLES = {"own": "", "copied": "close_range", "shared": "close_range,unshare"}


@pytest.fixture(params=TABLES.values(), ids=TABLES)
def refused(request):
    """In front of a command."""
    return [sys.executable, FILTER, request.param] if request.param else []


def closing(redirections, command):
    return ["sh", "-c", f'exec "$@" {redirections}', "sh", *map(str, command)]


def run_alone(command, report):
    environment = dict(os.environ, ECHION_TEST_REPORT=str(report))
    environment.pop("ECHION_TEST_FIFO", None)
    subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT_S,
    )
    return json.loads(report.read_text())


@pytest.mark.parametrize("redirections", REDIRECTIONS)
def test_a_program_finds_closed_streams_closed(echion, python, tmp_path, redirections):
    """Those of echion itself are closed, too."""
    command = [python.path, TARGETS / "closed_streams.py", "report"]
    alone = run_alone(closing(redirections, command), tmp_path / "alone.json")
    wrap = ["sh", "-c", f'exec "$@" {redirections}', "sh"]
    result = echion.run(command, "-i", "1ms", "--engine", "clock", wrap=wrap)
    assert result.returncode == 0
    assert result.report == alone
    assert result.profile.total_with("report") > 0, "what it did is in the profile"


@pytest.mark.parametrize("redirections", ["<&-", ">&-"])
def test_also_where_the_agent_shares_the_programs_table(
    echion, any_python, tmp_path, refused, redirections
):
    command = [any_python.path, TARGETS / "closed_streams.py", "report"]
    alone = run_alone(closing(redirections, command), tmp_path / "alone.json")
    result = echion.run(
        closing(redirections, [*refused, *command]), "-i", "1ms", "--engine", "clock"
    ).check()
    assert result.report == alone
    assert result.profile.total_with("report") > 0


@pytest.mark.parametrize("number", ["0", "1", "2"])
def test_a_spawned_python_finds_closed_streams_closed(echion, any_python, tmp_path, number):
    command = [any_python.path, TARGETS / "closed_streams.py", "spawn", number]
    alone = run_alone(command, tmp_path / "alone.json")
    result = echion.run(command, "-i", "1ms", "--engine", "clock").check()
    assert result.report == alone
    assert result.report["before"] == int(number)
    assert result.profile.total_with("report") > 0


@pytest.mark.parametrize("kind", ["same", "closed"])
def test_a_launched_program_gets_its_lowest_numbers(echion, any_python, refused, kind):
    """From its first moment on, on every tick and while the agent looks after other things."""
    command = [*refused, any_python.path, TARGETS / "lowest_numbers.py", kind, "1"]
    result = echion.run(command, "-i", "1ms", "--engine", "clock", "--no-follow").check()
    report = result.report
    assert report["others"] == {} and report["times"] > 100, result.stderr
    assert report["expected"] == (0 if kind == "closed" else 3)
    assert result.profile.total_with("count_others") > 0


def test_it_is_told_where_the_agent_shares_the_programs_table(echion, any_python, refused):
    command = [*refused, any_python.path, TARGETS / "lowest_numbers.py", "same", "0.3"]
    result = echion.run(command, "-v", "-i", "1ms", "--engine", "clock").check()
    is_shared = TABLES["shared"] in refused
    assert ("shares its descriptor table" in result.stderr) == is_shared, result.stderr


def test_what_is_open_beside_the_program_s_own_is_the_rendezvous(echion, any_python, tmp_path):
    command = [any_python.path, TARGETS / "lowest_numbers.py", "same", "0.2"]
    alone = run_alone(command, tmp_path / "alone.json")
    result = echion.run(command, "-i", "1ms", "--engine", "clock").check()
    (added,) = set(result.report["open"]) - set(alone["open"])
    assert added >= 50


def test_an_attached_program_keeps_its_table_to_itself(echion, any_python, tmp_path):
    """Once it is sampled nothing of the agent's is among its descriptors."""
    with start_target(tmp_path, [any_python.path, "-c", WAITING]) as waiting:
        waiting.wait_for_call(0)
        before = waiting.descriptors()
        with echion.start(["-p", str(waiting.pid)], "-i", "1ms", "--engine", "clock") as running:
            waiting.wait_until_sampled()
            assert waiting.descriptors() == before
            waiting.finish()
            running.finish().check()


def test_a_stream_that_a_sampled_program_closes_ends(echion, any_python):
    """The agent holds none of the program's files: a pipe whose only writer closes it has an end."""
    code = (
        "import os, time\nreading, writing = os.pipe()\nend = time.time() + 0.4\n"
        "while time.time() < end:\n"
        "    a, b = os.pipe(); os.close(b); assert os.read(a, 1) == b''; os.close(a)\n"
        "os.close(writing); os.set_blocking(reading, False); assert os.read(reading, 1) == b''"
    )
    result = echion.run([any_python.path, "-c", code], "-i", "1ms", "--engine", "clock").check()
    assert result.profile.samples


WAITING = """
import os, sys
with open(os.environ["ECHION_TEST_FIFO"], "w") as words: print("ready", os.getpid(), file=words)
sys.stdin.read()
with open(os.environ["ECHION_TEST_REPORT"], "w") as report: report.write("{}")
"""


@pytest.fixture(autouse=True)
def is_x86(request):
    if "refused" in request.fixturenames and os.uname().machine != "x86_64":
        pytest.skip("the filter knows the system calls of x86-64 only")


def test_the_messages_of_an_echion_without_standard_error_go_nowhere(echion, any_python):
    """Not into a file that has got its number: the profile, say."""
    code = "import sys; sys.exit(0)"
    wrap = ["sh", "-c", 'exec "$@" <&- 2>&-', "sh"]
    result = echion.run([any_python.path, "-c", code], "-v", wrap=wrap)
    assert result.returncode == 0
    assert "echion: " not in pathlib.Path(result.output).read_text()


@pytest.mark.usefixtures("needs_root")
def test_attaching_takes_none_of_the_programs_numbers(echion, build_dir, any_python, tmp_path):
    """Not for a moment, by the helper, the dynamic loader or the agent."""
    if not has_thread_descriptors():
        pytest.skip("no descriptor can be fetched from a single thread (before Linux 6.9)")
    command = [any_python.path, TARGETS / "lowest_numbers.py", "all", "60"]
    with start_target(tmp_path, command) as target:
        # An agent that is loaded anew, and one that is there, many times.
        attach = ["-p", str(target.pid)]
        for _ in range(10):
            result = echion.run(attach, "-x", "0.02", "--engine", "clock").check()
        probe = build_dir / "tests/tools/attach_probe"
        dummy = build_dir / "tests/tools/libdummy_agent.so"
        subprocess.run([probe, str(target.pid), dummy, "30"], check=True)
        os.kill(target.pid, signal.SIGTERM)
        report = target.finish()
    assert report["others"] == {} and report["times"] > 100
    assert report["expected"] == 0
    assert result.profile.total_with("count_others") > 0


@pytest.mark.usefixtures("needs_root")
def test_attaching_leaves_nothing_where_the_table_is_shared(echion, any_python, tmp_path):
    """Without close_range(2) the helper works among the program's descriptors."""
    command = [sys.executable, FILTER, TABLES["shared"], any_python.path, "-c", WAITING]
    with start_target(tmp_path, command) as waiting:
        waiting.wait_for_call(0)
        before = waiting.descriptors()
        for _ in range(3):
            result = echion.run(["-p", str(waiting.pid)], "-v", "-x", "0.1").check()
            assert "shares its descriptor table" in result.stderr, result.stderr
            assert waiting.descriptors() == before
        assert result.profile.samples
        waiting.finish()


def has_thread_descriptors():
    """By pidfd_open() with PIDFD_THREAD."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = libc.syscall(434, threading.get_native_id(), os.O_EXCL)
    if number >= 0:
        os.close(number)
    return number >= 0
