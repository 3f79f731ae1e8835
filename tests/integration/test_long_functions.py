"""Functions whose table of lines is too large to be sent as a whole: generated code, mostly."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess

import pytest

from attach_support import catches, start_target, target_command
from interpreters import Interpreter
from runner import TIMEOUT_S, Echion
from whereabouts import wait_until


@pytest.mark.parametrize("metric", ["wall", "cpu"])
def test_the_line_is_the_right_one(echion: Echion, every_python: Interpreter, metric: str) -> None:
    options = ["-c"] if metric == "cpu" else []
    result = echion.run_target(every_python, "long_function", options=options).check()
    lines: dict[int, int] = {}
    for sample in result.profile.samples:
        for frame in sample.frames:
            if frame.name == "long_function":
                lines[frame.line] = lines.get(frame.line, 0) + sample.metric
    unknown = result.profile.figure("lines_unknown")
    # Its first line has no work of its own: it would stand for what is not known.
    assert lines.get(1, 0) <= 2000, lines
    assert (lines.get(0, 0) > 0) <= (unknown > 0)
    if metric == "wall":
        last_line = result.report["last_line"]
        assert max(lines, key=lines.get) == last_line, (last_line, unknown, lines)


def test_where_shows_it(echion: Echion, every_python: Interpreter, tmp_path: pathlib.Path) -> None:
    command = target_command(every_python, "long_function", "wait")
    with start_target(tmp_path, command) as target:
        target.wait_for_call(0)
        shown = subprocess.run(
            [str(echion.program), "-w", str(target.pid)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
        last_line = target.finish()["last_line"]
    assert re.search(rf"long_function.*\b{last_line}\b", shown.stdout + shown.stderr), shown


def test_a_dump_shows_it(echion: Echion, every_python: Interpreter) -> None:
    command = target_command(every_python, "long_function", "wait")
    with echion.start(command, stdin=subprocess.PIPE) as running:
        pid = running.wait_ready()
        wait_until(lambda: catches(pid, signal.SIGQUIT), "the agent has taken the signal")
        os.kill(pid, signal.SIGQUIT)
        text = ""
        while not text.endswith("\n\n"):  # as reports do
            part = os.read(running.process.stderr.fileno(), 65536)
            assert part, text
            text += part.decode()
        running.process.stdin.close()
        running.process.stdin = None
        last_line = running.finish().check().report["last_line"]
    assert re.search(rf"long_function.*\b{last_line}\b", text), text
