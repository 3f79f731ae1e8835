"""echion is killed (SIGKILL): what was sampled until about a second before is in the file."""

from __future__ import annotations

import os
import subprocess
import time

import pytest

from attach_support import target_command
from runner import TIMEOUT_S, Result, Running

ONE_PYTHON = True  # see conftest.py

# docs/profile-format.md: written once a second, and of a stack that stands still nine tenths. What
# the machine's other work adds is less than this share of the last phase.
LAST_PHASE_S = 2.5
LEAST_SHARE = 0.3


def cpu_s(pid):
    with open(f"/proc/{pid}/stat") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def count_us(text, function):
    """The time of the samples with this function in their stacks."""
    lines = (line for line in text.splitlines() if line.startswith("P") and f":{function}:" in line)
    return sum(int(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture
def start(build_dir, tmp_path):
    """Starts a target with echion on it; gives echion's process and what the target says."""
    processes = []

    def start_both(python, way, mode, engine):
        fifo = tmp_path / "words"
        os.mkfifo(fifo)
        options = ["--engine", engine, "-o", tmp_path / "out", *(["-c"] if mode == "busy" else [])]
        echion = [build_dir / "echion", *options]
        command = target_command(python, "phases", mode, *(["attached"] if way == "attached" else []))
        environment = dict(os.environ, ECHION_TEST_FIFO=str(fifo))

        def run(arguments, **keywords):
            process = subprocess.Popen(list(map(str, arguments)), env=environment, **keywords)
            processes.append(process)
            return process

        keywords = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        target = run([*echion, *command] if way == "launched" else command, **keywords)
        words = Running(target, Result(0, "", "", tmp_path / "out", tmp_path / "report"), fifo)
        pid = words.wait_ready()
        if way == "launched":
            return target, words, pid
        attached = run([*echion, "-v", "-p", pid], stderr=subprocess.PIPE, text=True)
        while "first sample" not in (line := attached.stderr.readline()):
            assert line, attached.wait()
        target.stdin.write("x")
        target.stdin.flush()
        return attached, words, pid

    yield start_both
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("way", "mode"), [("launched", "asleep"), ("launched", "busy"), ("attached", "asleep")]
)
def test_what_was_sampled_is_in_the_file(start, python, engine, tmp_path, way, mode):
    echion, words, pid = start(python, way, mode, engine)
    lengths = {}
    while "last" not in lengths:
        name, seconds = words.wait_for("phase")
        lengths[name] = float(seconds)
    now = (lambda: cpu_s(pid)) if mode == "busy" else time.monotonic
    began = now()
    time.sleep(LAST_PHASE_S)  # the phase that is measured, not a wait for somebody
    lengths["last"] = now() - began
    echion.kill()
    echion.wait(TIMEOUT_S)
    text = (tmp_path / "out").read_text()
    assert text.endswith("\n")
    assert all(line.rpartition(" ")[2].isdigit() for line in text.splitlines() if line.startswith("P"))
    for name, seconds in lengths.items():
        least = LEAST_SHARE if name == "last" else 0.8
        assert count_us(text, name) / 1e6 >= least * seconds, (name, text)
