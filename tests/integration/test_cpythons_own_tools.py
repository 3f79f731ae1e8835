"""CPython's own ways into a running process, beside us: `sys.remote_exec` (3.14) and
`profiling.sampling` (3.15). Neither side disturbs the other."""

from __future__ import annotations

import pathlib
import signal
import subprocess

import pytest

from attach_support import start_target, target_command
from interpreters import Interpreter, find_interpreters
from possible import judge
from runner import TIMEOUT_S, Echion, run_unsampled
from whereabouts import wait_until

pytestmark = pytest.mark.usefixtures("needs_root")

WITH_REMOTE_EXEC = [one for one in find_interpreters() if one.minor >= (3, 14)]
WITH_A_PROFILER = [one for one in find_interpreters() if one.minor >= (3, 15)]
TIMES = 20
FEW = 2  # impossible stacks: see test_known_stacks.py
MARKED = 0.02

EXECUTE = """
import sys
sys.remote_exec(int(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.skipif(not WITH_REMOTE_EXEC, reason="no CPython 3.14 or later: scripts/pythons makes them")
@pytest.mark.parametrize("interpreter", WITH_REMOTE_EXEC, ids=lambda one: one.name)
@pytest.mark.parametrize("way", ["attached", "launched"])
def test_code_that_others_have_the_program_run(
    echion: Echion, interpreter: Interpreter, way: str, tmp_path: pathlib.Path
) -> None:
    done = tmp_path / "done"
    script = tmp_path / "script.py"
    script.write_text(f"with open({str(done)!r}, 'a') as file: file.write('x')\n")
    command = target_command(interpreter, "known_stacks", "600")

    def execute(pid: int) -> None:
        for times in range(1, TIMES + 1):
            words = [interpreter.path, "-c", EXECUTE, str(pid), str(script)]
            subprocess.run(words, check=True, timeout=TIMEOUT_S)
            wait_until(lambda: done.exists() and len(done.read_text()) >= times, "it has run")

    if way == "launched":
        with echion.start(command, "-i", "100") as running:
            execute(running.wait_ready())
            running.process.terminate()
            result = running.finish()
            assert result.returncode == 128 + signal.SIGTERM, result.stderr
            profile = result.profile
    else:
        with start_target(tmp_path, command) as target:
            with echion.start(["-p", str(target.pid)], "-i", "100") as running:
                target.wait_until_sampled()
                execute(target.pid)
                running.process.terminate()
                profile = running.finish().check().profile
            assert target.is_alive()
    assert done.read_text() == TIMES * "x"
    marked = profile.figure("torn_marked") + profile.figure("invalid")
    assert marked <= MARKED * profile.figure("samples")
    assert profile.total_with("<module>", "main", thread="MainThread")


@pytest.mark.skipif(not WITH_A_PROFILER, reason="no CPython 3.15 or later: scripts/pythons makes one")
@pytest.mark.parametrize("interpreter", WITH_A_PROFILER, ids=lambda one: one.name)
@pytest.mark.parametrize("options", [(), ("--blocking",)], ids=["running", "blocking"])
def test_cpythons_own_profiler(
    echion: Echion, interpreter: Interpreter, options: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    """With --blocking it stops the program by ptrace for each of its samples."""
    collapsed = tmp_path / "collapsed"
    words = [interpreter.path, "-m", "profiling.sampling", "attach", "-a", "--collapsed", *options]
    words += ["-r", "1000", "-d", "1", "-o", str(collapsed)]
    possible = run_unsampled(interpreter, "known_stacks", "0.1", folder=tmp_path)["possible"]
    with start_target(tmp_path, target_command(interpreter, "known_stacks", "600")) as target:
        with echion.start(["-p", str(target.pid)], "-i", "100") as running:
            target.wait_until_sampled()
            told = subprocess.run(
                [*words, str(target.pid)], capture_output=True, text=True, timeout=TIMEOUT_S
            )
            running.process.send_signal(signal.SIGINT)
            result = running.finish().check()
        assert target.is_alive()
    assert told.returncode == 0 and "Captured" in told.stdout, told.stdout + told.stderr
    lines = collapsed.read_text().splitlines()
    assert any("known_stacks.py:main" in line for line in lines), lines
    verdict = judge(result.profile, possible)
    assert verdict.impossible <= FEW, verdict
    assert verdict.marked_samples <= MARKED * verdict.samples, verdict
