"""Threads that wait in the kernel keep their names and numbers, however they got there, though the
process has a thread that no Python knows and that could have been lent their states."""

import json
import pathlib
import subprocess

import pytest

from attach_support import start_target, target_command
from runner import TIMEOUT_S
from whereabouts import wait_until

WAYS = 17


def look(program, pid, *options):
    done = subprocess.run(
        [program, "-w", str(pid), "--json", *options], capture_output=True, text=True,
        timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)["threads"]


def all_wait(pid):
    tasks = pathlib.Path(f"/proc/{pid}/task")
    states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()]
    return len(states) == WAYS + 2 and set(states) == {"S"}


@pytest.mark.parametrize("options", [(), ("-x", "0.3")], ids=["once", "followed"])
def test_each_keeps_its_name(echion, every_python, tmp_path, options):
    with start_target(tmp_path, target_command(every_python, "blocked")) as target:
        wait_until(lambda: all_wait(target.pid), "all threads wait")
        threads = look(echion.program, target.pid, *options)
    assert len(threads) == WAYS + 1
    for thread in threads:
        assert thread["native_id"] is not None, thread["name"]
        stacks = thread["stacks"] if options else [thread]
        (stack,) = stacks
        functions = [frame["function"] for frame in stack["frames"]]
        way = "main" if thread["name"] == "MainThread" else thread["name"]
        assert way in functions, (thread["name"], functions)
