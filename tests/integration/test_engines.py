"""What makes the ticks: the profile says what it was, and what was asked for is had or refused."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

import pytest

from attach_support import start_target, target_command
from conftest import NOBODY, PYTHON
from interpreters import Interpreter
from runner import Echion, TARGETS, why_not

IN_USER_NAMESPACE = [sys.executable, str(TARGETS / "in_user_namespace.py")]
BURN = """
import time
def early(end):
    while time.thread_time() < end: pass
def late(end):
    while time.thread_time() < end: pass
start = time.thread_time()
early(start + 0.3)
late(start + 0.6)
"""


@pytest.fixture
def trusted(nobodys: Echion) -> Echion:
    """The same, with capabilities of its own."""
    if reason := why_not("bpf", nobodys.program):
        pytest.skip(reason)
    if shutil.which("setcap") is None:
        pytest.skip("needs setcap")
    command = ["setcap", "cap_bpf,cap_perfmon,cap_sys_ptrace=ep", str(nobodys.program)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no capabilities of files here: {done.stderr.strip()}")
    return nobodys


def test_the_header_says_what_ticks(
    trusted: Echion, any_python: Interpreter, tmp_path: pathlib.Path
) -> None:
    # The kernel lets nobody's events signal nobody else's process.
    with start_target(tmp_path, target_command(any_python, "busy", "20", "100000")) as busy:
        result = trusted.run(["-p", str(busy.pid)], "-c", "-x", "0.3", wrap=NOBODY).check()
    assert result.profile.header["engine"] == "nanosleep"
    assert "not ticked by the kernel" in result.stderr and "another user's" in result.stderr
    own = trusted.run([PYTHON, "-c", "sum(range(10**7))"], "-c", wrap=NOBODY).check()
    assert own.profile.header["engine"] == "bpf"
    assert "engines" not in own.profile.footer


@pytest.mark.parametrize("engine", ["bpf", "perf"])
def test_an_engine_that_cannot_tick_this_process_leaves_it_alone(
    trusted: Echion, any_python: Interpreter, tmp_path: pathlib.Path, engine: str
) -> None:
    with start_target(tmp_path, target_command(any_python, "waits", "read_pipe")) as service:
        service.wait_for_call(0)
        before = service.descriptors(), service.mapped_bytes(), service.threads()
        options = ["-c", "-x", "0.2", "--engine", engine]
        result = trusted.run(["-p", str(service.pid)], *options, wrap=NOBODY)
        after = service.descriptors(), service.mapped_bytes(), service.threads()
        service.finish()
    assert result.returncode == 1
    assert result.stderr.startswith(f"echion: --engine {engine} cannot be had: ")
    assert result.stderr.count("\n") == 1 and "remedy: run echion as root" in result.stderr
    assert not result.output.exists()
    assert after == before



@pytest.fixture
def namespaced(nobodys: Echion) -> Echion:
    """To be run in a user namespace of its own."""
    probe = subprocess.run([*IN_USER_NAMESPACE, "true"], capture_output=True, text=True)
    if probe.returncode:
        pytest.skip(f"no user namespaces here: {probe.stderr.strip()}")
    return nobodys


def test_root_of_a_user_namespace_signals_its_own_processes_only(
    namespaced: Echion, needs_users_perf: None
) -> None:
    """As the kernel has it: events of a root that is none outside do not signal other users."""
    other = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", PYTHON, "-c", BURN]
    result = namespaced.run(other, "-c", wrap=IN_USER_NAMESPACE).check()
    assert result.profile.header["engine"] == "nanosleep"
    for name in ("early", "late"):
        assert result.profile.total_with(name) == pytest.approx(300_000, rel=0.1)
    own = namespaced.run([PYTHON, "-c", BURN], "-c", wrap=IN_USER_NAMESPACE).check()
    assert own.profile.header["engine"] == "perf"
    refused = namespaced.run(other, "-c", "--engine", "perf", wrap=IN_USER_NAMESPACE)
    assert refused.returncode == 0, "the command's"
    assert "--engine perf cannot be had: " in refused.stderr and "another user's" in refused.stderr
