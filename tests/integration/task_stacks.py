"""Which stacks the tasks of tests/targets/task_churn.py can have."""

from __future__ import annotations

import dataclasses
from typing import Sequence

from profile_text import Sample
from runner import TARGETS


def simplify(name: str) -> str:
    """Without what is in front of the last dot: versions differ in qualified names."""
    return name.rpartition(".")[2]


# What a task may have on its stack, by what its name begins with: where it waits for others, and
# the functions of tests/targets/task_churn.py that it may be in. Who may wait for it.
CHURN = {
    "main": (["main", "wait", "_wait"], set(), {None}),
    "root": (["root", "wait", "_wait"], {"root", "compute_root"}, {None, "main"}),
    "middle": (["middle"], {"middle", "compute_middle"}, {None, "root"}),
    "leaf": ([], {"leaf", "leaf_inner", "compute_leaf"}, {None, "middle"}),
}
OF_CHURN = {"leaf", "leaf_inner", "middle", "root", "compute_leaf", "compute_middle", "compute_root"}


def part(sample: Sample) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The functions in front of all tasks, and those of each task, from the root."""
    front: list[str] = []
    tasks: list[tuple[str, list[str]]] = []
    for frame in sample.frames:
        if not frame.file:
            tasks.append((frame.function, []))
        else:
            (tasks[-1][1] if tasks else front).append(simplify(frame.function))
    return front, tasks


# How wait_for() waits for what it has cancelled, up to 3.11.
FORSAKEN = ["root", "wait_for", "_cancel_and_wait"]
DEFINED = {
    line.split("(")[0].rpartition(" ")[2]: number
    for number, line in enumerate((TARGETS / "task_churn.py").read_text().splitlines(), 1)
    if line.startswith("async def ")
}


def find_fault(sample: Sample, in_front: Sequence[str] = ("_run",)) -> str:
    """Why the stack cannot have been; empty: it can. `in_front`: which function may be in front of
    all tasks: one that runs the event loop's handles, or the loop."""
    frames = tuple(frame for frame in sample.frames if frame.file or frame.function != "GC")
    sample = dataclasses.replace(sample, frames=frames)
    if not frames:
        return ""
    newest = frames[-1]
    if newest.file and newest.line == DEFINED.get(newest.name):
        # The coroutine is being made, by the function that it will run beside.
        sample = dataclasses.replace(sample, frames=sample.frames[:-1])
    front, tasks = part(sample)
    if tasks and tasks[0][0].startswith("Task-") and not sample.has("root"):
        return ""  # of asyncio.run() itself, at the end
    if OF_CHURN & set(front):
        return f"{front[-3:]} in front of {tasks}"
    is_suspended = front[-1:] == ["select"] or front[-1:] == ["_run_once"]
    if tasks and front[-1] not in in_front and not is_suspended:
        return f"a task behind {front[-1:]}, which runs none"
    if tasks and is_suspended and any(one.startswith("compute_") for one in tasks[-1][1]):
        return f"a suspended task that computes: {tasks}"
    names = [name for name, _ in tasks]
    if len(set(names)) != len(names):
        return "a task that is there twice"
    before = None
    for i, (name, functions) in enumerate(tasks):
        kind = name.partition("/")[0]
        waiting, own, waiters = CHURN[kind]
        if before not in waiters:
            return f"{kind} below {before}"
        before = kind
        if i + 1 < len(tasks):
            if functions not in (waiting, [kind], [kind, "wait_for"], FORSAKEN):
                return f"{kind} waits in {functions}"
        elif (set(functions) & OF_CHURN) - own or (functions and functions[0] != kind):
            return f"{kind} runs {functions}, {newest}"
    return ""
