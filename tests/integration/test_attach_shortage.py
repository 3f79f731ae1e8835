"""Attaching while echion itself has too little of something, or the target ends or becomes another
program: the reason that the user reads is the true one."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from attach_support import start_target, target_command
from interpreters import Interpreter
from runner import Echion
from test_attach_awkward import start_awkward
from whereabouts import wait_until

pytestmark = pytest.mark.usefixtures("needs_root")

# From what echion needs to begin at all to what attaching needs.
FEW_DESCRIPTORS = range(6, 40)
# What is said of a target that is what it was, and is not true of one that is not.
UNTRUE = (
    "security module",
    "runs CPython",
    "not run CPython",
    "thread of the kernel",
    "kernel thread",
    "traced by",
)


def limited(files: int) -> list[str]:
    code = (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files})); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    return [sys.executable, "-c", code]


def test_too_few_descriptors_are_what_it_says(
    echion: Echion, any_python: Interpreter, tmp_path: pathlib.Path
) -> None:
    """Whichever descriptor is the first that cannot be had."""
    with start_target(tmp_path, target_command(any_python, "waits", "read_pipe")) as target:
        for files in FEW_DESCRIPTORS:
            command = ["-p", str(target.pid), "-x", "0.01", "--engine", "clock"]
            result = echion.run(command, wrap=limited(files))
            if result.returncode != 0:
                assert "oo many open files" in result.stderr or "ulimit -n" in result.stderr, (
                    files,
                    result.stderr,
                )
        assert result.returncode == 0, f"{files} are too few: the range is to be longer"
        assert target.is_alive()


NEVER_SAFE = """
import ctypes, os, sys, threading
library = ctypes.CDLL(sys.argv[1])
with open(os.environ["ECHION_TEST_FIFO"], "w") as words: print("ready", os.getpid(), file=words)
library.run_for_ever()
"""
# In code that lies in no file: no thread may be borrowed there.
RUN_FOR_EVER = """
#include <string.h>
#include <sys/mman.h>
void run_for_ever(void) {
    void *code = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(code, "\\xeb\\xfe", 2); /* a jump to itself */
    ((void (*)(void))code)();
}
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_target_that_ends_while_a_moment_is_looked_for(
    echion: Echion, any_python: Interpreter, tmp_path: pathlib.Path, end: signal.Signals
) -> None:
    """The search lasts five seconds, but not behind the target's end."""
    source, library = tmp_path / "ever.c", tmp_path / "ever.so"
    source.write_text(RUN_FOR_EVER)
    subprocess.run(["gcc", "-shared", "-fPIC", source, "-o", library], check=True)
    command = [any_python.path, "-c", NEVER_SAFE, library]
    with start_target(tmp_path, command) as target:
        with echion.start(["-p", str(target.pid)], "-x", "0.1") as running:
            begun = times_stopped(target.pid)
            wait_until(lambda: times_stopped(target.pid) > begun + 20, "it is looked at")
            os.kill(target.pid, end)
            began = time.monotonic()
            result = running.finish()
            took_s = time.monotonic() - began
    assert result.returncode == 1
    assert f"process {target.pid} (" in result.stderr and "ended while attaching" in result.stderr
    assert took_s < 2.5, "the end of the target was seen late"


def times_stopped(pid: int) -> int:
    """A program that only computes leaves its CPU of its own accord when it is stopped."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])


@pytest.mark.parametrize("option", ["-p", "-w"])
def test_a_program_that_executes_itself_is_not_called_something_else(
    build_dir: pathlib.Path,
    python: Interpreter,
    tmp_path: pathlib.Path,
    option: str,
) -> None:
    with start_awkward(python, "exec") as target:
        for cycle in range(15):
            command = [build_dir / "echion", "-o", tmp_path / "out", "--engine", "clock"]
            command += ["-x", "0.01"] if option == "-p" else []
            done = subprocess.run(
                [*command, option, str(target.pid)], capture_output=True, text=True, timeout=60
            )
            for words in UNTRUE:
                assert done.returncode == 0 or words not in done.stderr, (cycle, done.stderr)
            target.check_left_alone()
        target.goes_on()


def test_a_process_that_ends_is_not_called_something_else(
    build_dir: pathlib.Path, any_python: Interpreter
) -> None:
    """Looked at again and again until it has gone."""
    code = "import sys; print(1, flush=True); sys.stdin.read()"
    for _ in range(20):
        process = subprocess.Popen(
            [any_python.path, "-I", "-S", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        process.stdout.readline()
        process.stdin.close()
        while True:
            done = subprocess.run(
                [build_dir / "echion", "-w", str(process.pid)], capture_output=True, text=True
            )
            for words in UNTRUE:
                assert done.returncode == 0 or words not in done.stderr, done.stderr
            if "has ended" in done.stderr:
                break
        process.wait()
        process.stdout.close()
