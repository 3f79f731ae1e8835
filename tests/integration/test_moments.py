"""Signals to echion before there is a sample, and attachments to a process that is just starting or
ending: the reason that is told is the true one, the status goes with it, and the process is what it
would have been."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import pytest

from austin_format import check_profile
from runner import TARGETS, TIMEOUT_S

TWO_PYTHONS = True  # see conftest.py

ENDINGS = [signal.SIGINT, signal.SIGTERM]


def run_echion(build_dir, folder, *arguments):
    return subprocess.run(
        [str(build_dir / "echion"), *map(str, arguments)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


# --- Signals ---


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_before_any_python_is_the_reason(build_dir, tmp_path, number):
    """The command gets it, too, and ends with a status of its own."""
    script = f'trap "exit 3" {int(number)}; kill -{int(number)} $PPID; while :; do :; done'
    result = run_echion(build_dir, tmp_path, "-o", "out", "sh", "-c", script)
    assert result.returncode == 3
    assert f"{number.name} came before any Python was seen" in result.stderr
    assert "LD_PRELOAD" not in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("status", [129, 137, 143, 255])
def test_an_exit_status_is_no_signal(build_dir, tmp_path, status):
    """Also one that a shell would give for a signal: the command has ended by itself."""
    result = run_echion(build_dir, tmp_path, "-o", "out", "sh", "-c", f"exit {status}")
    assert result.returncode == status
    assert result.stderr.startswith("echion: no Python was seen in ")
    assert "LD_PRELOAD" in result.stderr and "came before" not in result.stderr


def test_a_signal_that_ended_the_command_is_told(build_dir, tmp_path):
    result = run_echion(build_dir, tmp_path, "-o", "out", "sh", "-c", "kill -KILL $$")
    assert result.returncode == 128 + signal.SIGKILL
    assert "SIGKILL came before any Python was seen" in result.stderr


def test_a_program_that_loads_no_agent_is_the_reason_whatever_ended_it(build_dir, tmp_path):
    source = tmp_path / "loop.c"
    source.write_text("#include <signal.h>\nint main(void) { return raise(SIGTERM); }\n")
    subprocess.run(["gcc", "-static", source, "-o", tmp_path / "loop"], check=True)
    result = run_echion(build_dir, tmp_path, "-o", "out", "./loop")
    assert result.returncode == 128 + signal.SIGTERM
    assert "linked statically" in result.stderr


def is_true_of_a_launch(number, told, has_file):
    """What may be said of a command that `number` ended before it had a sample, or after."""
    name = number.name
    if not told:
        return True  # ended by default, before anything was begun, or a profile with samples
    if has_file:
        return re.fullmatch(f"echion: the profile is empty: {name} came before the first sample\n", told)
    return re.fullmatch(f"echion: {name} came before any Python was seen in .*\n", told)


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_at_any_moment_of_a_launch(build_dir, python, tmp_path, number):
    started = "import os; os.write(1, b'x'); os.read(0, 1)"
    reader, writer = os.pipe()  # whose end, unlike that of communicate(), does not race the signal
    for step in range(12):
        out = tmp_path / f"out-{step}"
        command = [build_dir / "echion", "-o", out, python.path, "-S", "-c", started]
        process = subprocess.Popen(
            list(map(str, command)), stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        if step == 11:
            process.stdout.read(1)  # it runs
        else:
            time.sleep(step * 0.006)  # any moment will do: this is no synchronisation
        process.send_signal(number)
        # Python loses a KeyboardInterrupt that it raises in a callback of a weak reference, as it does
        # many times while it starts: the next one, after that, ends it. SIGTERM it cannot lose.
        if number == signal.SIGINT and process.stdout.read(1):
            process.send_signal(number)
        told = process.communicate(timeout=TIMEOUT_S)[1].decode()
        told = "".join(line for line in told.splitlines(True) if line.startswith("echion: "))
        # Python itself ends with 1 where the signal comes while it imports what it needs.
        assert process.returncode in (-number, 128 + number, 1), told
        assert is_true_of_a_launch(number, told, out.exists()), (step, told)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("number", ENDINGS)
def test_a_signal_at_any_moment_of_an_attachment(build_dir, waiting, tmp_path, number):
    for step in range(16):
        out = tmp_path / f"out-{step}"
        command = [build_dir / "echion", "-o", out, "-p", waiting.pid]
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
        time.sleep(step * 0.006)
        process.send_signal(number)
        told = process.communicate(timeout=TIMEOUT_S)[1]
        if process.returncode == 0:
            check_profile(out.read_text())
            # After the first look, which gives no time to anybody yet.
            assert told in ("", f"echion: the profile is empty: {number.name} came before the first sample\n")
            continue
        assert not out.exists()
        assert process.returncode in (-number, 128 + number), told
        assert told == "" or re.fullmatch(
            rf"echion: (interrupted.* goes on.*|.*{number.name} came before the first sample.*)\n", told
        ), told


# --- Moments at which there is no Python in a process ---


@pytest.fixture
def held(tmp_path):
    """A library that holds its process, and what it needs for that."""
    library = tmp_path / "held.so"
    subprocess.run(["gcc", "-shared", "-fPIC", TARGETS / "held.c", "-o", library], check=True)
    for name in ("word", "gate"):
        os.mkfifo(tmp_path / name)
    return {
        "LD_PRELOAD": str(library),
        "HELD_WORD": str(tmp_path / "word"),
        "HELD_GATE": str(tmp_path / "gate"),
    }


# In the destructor of a global, when the interpreter is being finalised.
FINALISING = """
import os
class Held:
    def __init__(self): self.os = os.open, os.write, os.close, os.read, os.environ
    def __del__(self):
        open_, write, close, read, environ = self.os
        word = open_(environ["HELD_WORD"], 1); write(word, b"h"); close(word)
        gate = open_(environ["HELD_GATE"], 0)
        while read(gate, 1): pass
held = Held()
"""


@pytest.mark.parametrize("moment", ["start", "finalising", "end"])
def test_a_process_without_python_is_not_touched(build_dir, python, tmp_path, held, moment):
    environment = dict(os.environ, **held, HELD_AT=moment)
    command = [python.path, "-S", "-c", FINALISING if moment == "finalising" else "pass"]
    with subprocess.Popen(command, env=environment) as target:
        with open(tmp_path / "word") as word:
            assert word.read() == "h"
        before = open(f"/proc/{target.pid}/maps").read()
        result = run_echion(build_dir, tmp_path, "-x", "0.1", "-o", "out", "-p", target.pid)
        after = open(f"/proc/{target.pid}/maps").read()
        open(tmp_path / "gate", "w").close()
        assert target.wait(TIMEOUT_S) == 0
    assert "has not started Python yet, or has ended it" in result.stderr
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert before == after and not (tmp_path / "out").exists()


TRUE_OF_AN_END = re.compile(
    r"echion: process \d+(?: \(\S+\))? ("
    r"ended while attaching|has ended(: its parent has not noticed)?|is ending|"
    r"has not started Python yet, or has ended it: try again if it is starting|"
    r"has ended; what was sampled until then is in the profile)\n"
    r"(echion: the profile has no samples: it was sampled for less than an interval \(-i\)\n)?"
)


def check_moment(result, out):
    """A profile, or a true reason and none."""
    if result.returncode == 0:
        check_profile(out.read_text())
        assert result.stderr == "" or TRUE_OF_AN_END.fullmatch(result.stderr), result.stderr
    else:
        assert result.returncode == 1, result.stderr
        assert TRUE_OF_AN_END.fullmatch(result.stderr), result.stderr
        assert not out.exists()


TRUE_OF_A_START = re.compile(
    r"echion: (process \d+ \(\S+\) ("
    r"does not run CPython \(or has not loaded it yet: then try again\)|"
    r"executes another program just now: try again|"
    r"has not started Python yet, or has ended it: try again if it is starting|"
    r"executed another program while attaching; if it is the right one, try again)|"
    r"cannot attach to .* if it is the right one, try again)\n"
)


def test_attachments_at_any_moment_of_the_start(build_dir, python, engine, tmp_path):
    """The process becomes Python at moments that lie around those of the attachment."""
    for step in range(6):
        out = tmp_path / f"out-{step}"
        script = f"sleep {step * 0.015}; exec {python.path} -S -c 'import sys; sys.stdin.read()'"
        with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE) as target:
            result = run_echion(
                build_dir, tmp_path, "--engine", engine, "-x", "0.05", "-o", out, "-p", target.pid
            )
            target.stdin.close()
            assert target.wait(TIMEOUT_S) == 0
        if result.returncode == 0:
            check_profile(out.read_text())
            assert result.stderr == ""
        else:
            assert result.returncode == 1
            assert TRUE_OF_A_START.fullmatch(result.stderr), result.stderr
            assert not out.exists()


@pytest.mark.parametrize("ending", ["", "import os; os._exit(0)", "import os; os.kill(os.getpid(), 9)"])
def test_attachments_at_any_moment_of_the_end(build_dir, python, engine, tmp_path, ending):
    """The process ends at moments that lie around those of the attachment."""
    code = f"import sys, time; time.sleep(float(sys.argv[1])); {ending}"
    wanted = -9 if "kill" in ending else 0
    for step in range(7):
        out = tmp_path / f"out-{step}"
        target = subprocess.Popen([python.path, "-S", "-c", code, f"{0.01 + step * 0.02}"])
        result = run_echion(
            build_dir, tmp_path, "--engine", engine, "-o", out, "-p", target.pid
        )
        assert target.wait(TIMEOUT_S) == wanted
        check_moment(result, out)
