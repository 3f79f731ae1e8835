"""What makes the ticks: the profile says what it was, and what was asked for is had or refused."""

from __future__ import annotations

import pathlib
import shutil
import subprocess

import pytest

from attach_support import start_target, target_command
from conftest import why_not
from interpreters import Interpreter
from runner import TARGETS, Echion

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]
PYTHON = "/usr/bin/python3"


@pytest.fixture
def trusted(build_dir: pathlib.Path, needs_root: None) -> Echion:
    """An echion with capabilities of its own, that an ordinary user may run, and write beside."""
    if reason := why_not("bpf", build_dir / "echion"):
        pytest.skip(reason)
    if shutil.which("setpriv") is None or shutil.which("setcap") is None:
        pytest.skip("needs setpriv and setcap")
    folder = pathlib.Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    folder.chmod(0o777)
    for program in ("echion", "libechion.so"):
        shutil.copy(build_dir / program, folder / program)
    try:
        rights = "cap_bpf,cap_perfmon,cap_sys_ptrace=ep"
        done = subprocess.run(["setcap", rights, folder / "echion"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no capabilities of files here: {done.stderr.strip()}")
        yield Echion(folder / "echion", folder)
    finally:
        shutil.rmtree(folder)


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

