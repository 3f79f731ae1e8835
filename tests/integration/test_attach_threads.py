"""Attaching to programs in which a thread is hard or dangerous to borrow: nobody is hurt, and what
is told is the reason."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time
import types

import pytest

from attach_support import start_target, target_command
from conftest import NOBODY, PYTHON
from runner import TARGETS, TIMEOUT_S

pytestmark = pytest.mark.usefixtures("needs_root")

# Room on a signal stack beside the kernel's frame: for a handler, but for no second frame.
LITTLE_ROOM_BYTES = 1024

@pytest.fixture(scope="module")
def library(tmp_path_factory):
    place = tmp_path_factory.mktemp("awkward")
    for folder in (place, *place.parents[:2]):
        with contextlib.suppress(PermissionError):
            folder.chmod(folder.stat().st_mode | 0o055)
    result = place / "awkward_threads.so"
    source = TARGETS / "awkward_threads.c"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", source, "-o", result], check=True)
    return result


def awkward(python, library, *words):
    return target_command(python, "awkward_threads", str(library), *words)


def attach(echion, pid, *options, **keywords):
    return echion.run(["-p", str(pid)], *(options or ("-x", "0.2")), **keywords)


def task_status(pid, tid, field):
    text = pathlib.Path(f"/proc/{pid}/task/{tid}/status").read_text()
    return re.search(rf"^{field}:\s+(\S+)", text, re.M).group(1)


def test_lock_of_the_c_library_that_is_held(echion, any_python, library, tmp_path):
    """Another thread holds the lock that a new thread needs, until the borrowed thread goes on."""
    with start_target(tmp_path, awkward(any_python, library, "held_lock")) as target:
        target.wait_for_call(0)
        threads = target.threads()
        result = attach(echion, target.pid)
        assert result.returncode == 1, result.stderr
        assert "no moment to attach safely" in result.stderr
        assert target.threads() == threads
        target.process.stdin.write(b"x")
        target.process.stdin.flush()
        assert target.finish()["got"] == [1, "x"]


def test_thread_in_an_uninterruptible_sleep_is_let_go(echion, any_python, library, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    keep = os.open(gate, os.O_RDWR)
    with start_target(tmp_path, awkward(any_python, library, "vfork", str(gate))) as target:
        target.wait_for_call(0)
        sleeper = (tmp_path / "gate.child").read_text().split()[1]
        assert task_status(target.pid, sleeper, "State") == "D"
        with echion.start(["-p", str(target.pid)]) as running:
            target.wait_until_sampled()
            for tid in target.threads():
                assert task_status(target.pid, tid, "TracerPid") == "0"
            os.close(keep)  # the last writer: the vfork()ed child ends
            deadline = time.monotonic() + TIMEOUT_S
            while str(sleeper) in os.listdir(f"/proc/{target.pid}/task"):
                assert time.monotonic() < deadline, task_status(target.pid, sleeper, "State")
                time.sleep(0.005)
            running.process.send_signal(signal.SIGINT)
            assert running.finish().returncode == 0
        report = target.finish()
        assert report["got"] == [42] and report["waited"] == [0, ""]


def test_child_that_runs_in_its_parents_memory(echion, any_python, library, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    keep = os.open(gate, os.O_RDWR)
    with start_target(tmp_path, awkward(any_python, library, "vfork", str(gate))) as target:
        child = (tmp_path / "gate.child").read_text().split()[0]
        maps = pathlib.Path(f"/proc/{target.pid}/maps").read_text()
        result = attach(echion, child)
        assert result.returncode == 1 and "vfork" in result.stderr, result.stderr
        assert pathlib.Path(f"/proc/{target.pid}/maps").read_text() == maps
        os.close(keep)
        assert target.finish()["got"] == [42]


def test_signal_stack_without_room(echion, any_python, library, tmp_path):
    """What lies below an alternate signal stack is the program's."""
    command = awkward(any_python, library, "signal_stack", str(LITTLE_ROOM_BYTES))
    with start_target(tmp_path, command) as target:
        target.wait_for_call(0)
        result = attach(echion, target.pid)
        assert result.returncode == 1, result.stderr
        assert "signal stack with no room" in result.stderr
        target.process.stdin.write(b"x")
        target.process.stdin.flush()
        assert target.finish()["changed"] == 0


def test_signal_stack_with_room(echion, any_python, library, tmp_path):
    command = awkward(any_python, library, "signal_stack", str(1 << 16))
    with start_target(tmp_path, command) as target:
        target.wait_for_call(0)
        result = attach(echion, target.pid)
        assert result.returncode == 0, result.stderr
        target.process.stdin.write(b"x")
        target.process.stdin.flush()
        assert target.finish()["changed"] == 0


def start_set_uid(folder):
    """A program that root gives its rights to whoever runs it; skips where that does not count."""
    program = folder / "sleeps-as-root"
    shutil.copy(shutil.which("sleep"), program)
    program.chmod(0o4755)
    shown = subprocess.run(
        [*NOBODY, shutil.which("cat"), "/proc/self/status"], capture_output=True, text=True, check=True
    )
    assert "Uid:\t65534" in shown.stdout
    with subprocess.Popen([*NOBODY, str(program), "60"]) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            uids = pathlib.Path(f"/proc/{process.pid}/status").read_text()
            name = re.search(r"^Name:\s+(\S+)", uids, re.M).group(1)
            if name.startswith("sleeps"):
                break
            assert time.monotonic() < deadline
        effective = re.search(r"^Uid:\s+\d+\s+(\d+)", uids, re.M).group(1)
        process.kill()
    if effective != "0":
        pytest.skip("set-uid programs have no effect in the test's folder (nosuid)")
    return program


def test_set_uid_program_that_comes_meanwhile(echion, library, tmp_path):
    """A user's process that keeps root's echion busy until it executes a set-uid program: nothing of
    that program is changed."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    program = start_set_uid(tmp_path)
    python = types.SimpleNamespace(path=PYTHON)
    command = [*NOBODY, *awkward(python, library, "spin", "600", str(program), "4")]
    with start_target(tmp_path, command) as target:
        result = attach(echion, target.pid)
        assert result.returncode == 1, result.stderr
        assert "executed another program" in result.stderr
        assert target.process.wait(TIMEOUT_S) == 0, "the set-uid program was led astray"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_during_the_search(echion, any_python, library, tmp_path, number):
    """It ends the search, long before that would end by itself."""
    with start_target(tmp_path, awkward(any_python, library, "spin", "0")) as target:
        with echion.start(["-p", str(target.pid)]) as running:
            deadline = time.monotonic() + TIMEOUT_S
            while task_status(target.pid, target.pid, "TracerPid") == "0":
                assert time.monotonic() < deadline
            running.process.send_signal(number)
            result = running.finish()
        assert result.returncode == 128 + number
        assert "interrupted" in result.stderr and "untouched" in result.stderr
        assert not result.output.exists()
        assert target.is_alive()


def test_code_that_lies_in_no_file(echion, any_python, library, tmp_path):
    with start_target(tmp_path, awkward(any_python, library, "spin", "0")) as target:
        result = attach(echion, target.pid)
        assert result.returncode == 1
        assert "no moment to attach safely" in result.stderr and "no file" in result.stderr
        assert task_status(target.pid, target.pid, "TracerPid") == "0"
