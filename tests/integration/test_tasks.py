"""Tasks of asyncio: their stacks, their states, and who waits for whom."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import struct
import subprocess
from typing import Sequence

import pytest

from attach_support import start_target
from profile_text import Profile, Sample
from runner import TARGETS, why_not
from task_stacks import find_fault, part, simplify

FREE_THREADED = "all"
LEAF = ("suspended", ["leaf", "innermost", "wait"])
INNERMOST = ["innermost", "wait"]


def tree(construct: str, functions: list[str], *leaves: str) -> dict:
    """Of a root that waits for leaves by itself."""
    found = {f"{construct}/root": ("suspended", [construct, *functions], [])}
    for leaf in leaves:
        found[f"{construct}/{leaf}"] = (*LEAF, [f"{construct}/root"])
    return found


def expect(minor: tuple[int, int]) -> dict:
    """The tasks of each construct that the version has: {construct: {name: (state, functions from the
    outermost to the innermost, waiters)}}."""
    two = ("leaf-1", "leaf-2")
    found = {
        "awaited": tree("awaited", [], "leaf"),
        "gathered": tree("gathered", [], *two),
        "gathered_in_gather": tree("gathered_in_gather", [], *two),
        "waited": tree("waited", ["wait", "_wait"], *two),
        "waited_for": tree("waited_for", ["wait_for"], "leaf"),
        "shielded": tree("shielded", [], "leaf"),
        "shielded_and_waited_for": tree("shielded_and_waited_for", ["wait_for"], "leaf"),
        "completed": tree("completed", ["_wait_for_one", "get"], *two),
        "completed_in_time": tree("completed_in_time", ["_wait_for_one", "get"], *two),
        "deep": {
            "deep/root": ("suspended", ["deep"], []),
            "deep/middle": ("suspended", ["middle"], ["deep/root"]),
            "deep/leaf": (*LEAF, ["deep/middle"]),
        },
        "shared": {
            "shared/root": ("suspended", ["shared"], []),
            "shared/second": ("suspended", ["wait", "_wait"], []),
            "shared/leaf": (*LEAF, ["shared/root", "shared/second"]),
        },
        "slept": tree("slept", ["sleep"]),
        "queued": tree("queued", ["get"]),
        "locked": tree("locked", ["__aenter__", "acquire"]),
        "conditioned": tree("conditioned", ["wait"]),
        "executed": tree("executed", []),
        "read_stream": tree("read_stream", ["readline", "readuntil", "_wait_for_data"]),
        "iterated": tree("iterated", ["ticker", *INNERMOST]),
        "sent": tree("sent", ["ticker", *INNERMOST]),
        "thrown": tree("thrown", ["catcher", *INNERMOST]),
        "managed": tree("managed", ["__aenter__", *INNERMOST]),
        "custom": tree("custom", ["__await__", *INNERMOST]),
        "named": {"wörker;1: ☃": ("suspended", ["named", *INNERMOST], [])},
        "in_python": {
            "in_python/root": ("suspended", ["in_python", "__await__"], []),
            "in_python/middle": (
                "suspended",
                ["in_python_wait", "__await__"],
                ["in_python/root"],
            ),
            "in_python/leaf": (*LEAF, ["in_python/middle"]),
        },
        "ring": {
            "ring/root": ("suspended", ["ring", *INNERMOST], []),
            "ring/ring-0": ("suspended", ["wait_for_other", "wait", "_wait"], ["ring/ring-1"]),
            "ring/ring-1": ("suspended", ["wait_for_other", "wait", "_wait"], ["ring/ring-0"]),
        },
        "strange": {
            "strange/root": ("suspended", ["strange", *INNERMOST], []),
            "strange/leaf": (*LEAF, []),
        },
    }
    if minor >= (3, 11):
        found["grouped"] = tree("grouped", ["__aexit__"], *two)
        found["grouped_but_busy"] = {
            "grouped_but_busy/root": ("suspended", ["grouped_but_busy", *INNERMOST], []),
            "grouped_but_busy/leaf": (*LEAF, []),
        }
        found["timed"] = tree("timed", [], "leaf")
    return found


def functions_of(holder: dict) -> list[str]:
    """Without one that TaskGroup has from some release of 3.13 on."""
    names = [simplify(frame["function"]) for frame in holder["frames"]]
    return [name for name in names if name != "_aexit"]


class Report:
    """What `-w --json` says of the tasks of one thread."""

    def __init__(self, thread: dict):
        self.thread = thread
        self.functions = functions_of(thread)
        by_id = {task["id"]: task["name"] for task in thread["tasks"]}
        self.tasks = {
            task["name"]: (
                task["state"],
                functions_of(task),
                sorted(by_id[waiter] for waiter in task["waiters"]),
            )
            for task in thread["tasks"]
        }
        assert len(self.tasks) == len(thread["tasks"])
        assert not any(task["broken"] or task["truncated"] for task in thread["tasks"])


def look(build_dir: pathlib.Path, pid: int) -> Report:
    done = subprocess.run(
        [build_dir / "echion", "-w", str(pid), "--json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    (thread,) = [one for one in json.loads(done.stdout)["threads"] if one["main"]]
    assert thread["tasks_consistency"] == "proved" and thread["tasks_complete"], thread
    assert thread["consistency"] == "proved"
    return Report(thread)


def command(python, *arguments: str) -> list[str]:
    return [python.path, str(TARGETS / "tasks.py"), *arguments]


def test_suspended_tasks(every_python, build_dir, tmp_path):
    expected = expect(every_python.minor)
    with start_target(tmp_path, command(every_python, ",".join(expected))) as target:
        report = look(build_dir, target.pid)
    wanted = {"main": ("suspended", ["main", "wait"], [])}
    for tasks in expected.values():
        wanted.update(tasks)
    found = {name: facts for name, facts in report.tasks.items()}
    assert {name: found.get(name) for name in wanted} == wanted
    assert set(found) == set(wanted)
    assert report.functions[-2:] == ["_run_once", "select"]


def test_automatic_names(every_python, build_dir, tmp_path):
    with start_target(tmp_path, command(every_python, "unnamed")) as target:
        report = look(build_dir, target.pid)
    (name,) = set(report.tasks) - {"main", "unnamed/root"}
    assert name.startswith("Task-") and name[5:].isdigit()
    assert report.tasks[name] == (*LEAF, [])


RUNNING_BELOW = {
    "main": ("suspended", ["main"], []),
    "running_below/root": ("suspended", ["running_below"], ["main"]),
    "running_below/runner": (
        "running",
        ["running", "running_inner", "compute"],
        ["running_below/root"],
    ),
    "running_below/other": (*LEAF, ["running_below/root"]),
    "running_below/leaf": (*LEAF, []),
}


def test_a_running_task(every_python, build_dir, tmp_path):
    with start_target(tmp_path, command(every_python, "running_below")) as target:
        report = look(build_dir, target.pid)
    assert report.tasks == RUNNING_BELOW
    assert report.functions[-5:] == ["_run_once", "_run", "running", "running_inner", "compute"]


def test_eager_tasks(every_python, build_dir, tmp_path):
    if every_python.minor < (3, 12):
        pytest.skip("CPython 3.12 and later have eager tasks")
    with start_target(tmp_path, command(every_python, "eager")) as target:
        report = look(build_dir, target.pid)
    assert report.tasks["eager/eager-leaf"] == (*LEAF, [])
    with start_target(tmp_path, command(every_python, "eager_running")) as target:
        report = look(build_dir, target.pid)
    # CPython 3.12 and 3.13 give it its name when it has been started.
    (eager,) = [
        facts for facts in report.tasks.values() if facts[1] == ["running_inner", "compute"]
    ]
    assert eager[0] == "running"
    state, functions, _ = report.tasks["eager_running/root"]
    assert state == "running"
    assert functions[0] == "eager_running" and not {"running_inner", "compute"} & set(functions)
    assert report.functions[-len(functions) - 2 :] == [*functions, "running_inner", "compute"]


def test_a_late_import(python, build_dir, tmp_path):
    with start_target(tmp_path, command(python, "awaited", "late")) as target:
        report = look(build_dir, target.pid)
    assert report.tasks["awaited/leaf"] == (*LEAF, ["awaited/root"])


def test_the_text_is_a_tree(python, build_dir, tmp_path):
    with start_target(tmp_path, command(python, "shared")) as target:
        done = subprocess.run(
            [build_dir / "echion", "-w", str(target.pid)], capture_output=True, text=True
        )
    lines = done.stderr.splitlines()
    at = next(i for i, line in enumerate(lines) if "tasks of its event loop:" in line)
    outline = [line for line in lines[at:] if ".py:" not in line and line]
    assert outline == [
        "        4 tasks of its event loop:",
        "        main (main): waits for a Future",
        "        shared/root (shared): waits for shared/leaf",
        "            shared/leaf (leaf): waits for a Future",
        "        shared/second (wait): waits for shared/leaf",
        "            shared/leaf (leaf): see above",
    ]


def test_a_report_at_sigquit_has_them(python, echion, tmp_path):
    program = [python.path, str(TARGETS / "tasks.py"), "shared"]
    with echion.start(program) as running:
        pid = running.wait_ready()
        os.kill(pid, signal.SIGQUIT)
        text = ""
        for line in running.process.stderr:
            text += line
            if "see above" in line:
                break
        os.kill(pid, signal.SIGKILL)
    assert "shared/root (shared): waits for shared/leaf" in text


def test_no_loop_no_tasks(python, build_dir, tmp_path):
    target_command = [python.path, str(TARGETS / "whereabouts.py"), "sleeping"]
    with start_target(tmp_path, target_command) as target:
        done = subprocess.run(
            [build_dir / "echion", "-w", str(target.pid), "--json"], capture_output=True, text=True
        )
    assert "tasks" not in json.loads(done.stdout)["threads"][0]


KEPT_TICKS = 0.5  # on a machine that has more to do
MARKED = 0.02  # of the time, as of known stacks


def judge_churn(profile: Profile, in_front: Sequence[str] = ("_run",)) -> None:
    samples = [sample for sample in profile.samples if not sample.is_marked and sample.frames]
    faults = {find_fault(sample, in_front): sample for sample in samples}
    faults.pop("", None)
    assert not faults, list(faults)
    marked = sum(sample.metric for sample in profile.samples if sample.is_marked)
    assert marked <= MARKED * sum(sample.metric for sample in profile.samples)
    computing = [sample for sample in samples if sample.has("compute_leaf")]
    assert len(computing) > 50
    whole = [one for one in computing if len(part(one)[1]) == 4]
    assert len(whole) > len(computing) / 10  # main, root, middle, leaf


def test_stacks_of_tasks_are_possible(python, echion, engine, tmp_path):
    """Attached, so that asyncio is there from the first sample on."""
    program = [python.path, str(TARGETS / "task_churn.py"), "1"]
    with start_target(tmp_path, program, env={"ECHION_TEST_AWAIT_SAMPLER": "1"}) as target:
        result = echion.run(["-p", str(target.pid)], "-i", "100", "--engine", engine).check()
    judge_churn(result.profile)


@pytest.mark.parametrize("mode", [[], ["-c"]], ids=["wall", "cpu"])
def test_a_running_task_in_a_profile(python, echion, mode, tmp_path):
    with start_target(tmp_path, command(python, "running_below")) as target:
        result = echion.run(["-p", str(target.pid)], "-x", "0.5", *mode).check()
    computing = [sample for sample in result.profile.samples if sample.has("compute")]
    assert computing
    for sample in computing:
        front, tasks = part(sample)
        assert front[-2:] == ["_run_once", "_run"]
        assert tasks == [
            ("main", ["main"]),
            ("running_below/root", ["running_below"]),
            ("running_below/runner", ["running", "running_inner", "compute"]),
        ]


def find_ways(tasks: dict) -> set[tuple]:
    """From each task that waits for no task up to those that nobody waits for: (name, functions) of
    each, the outermost first."""
    waiting = {waiter for _, _, waiters in tasks.values() for waiter in waiters}
    for_lines = str.maketrans(";:", "；：")  # what cannot stand in a line of the format

    def ways_to(name: str) -> list[tuple]:
        _, functions, waiters = tasks[name]
        above = [way for waiter in waiters for way in ways_to(waiter)] or [()]
        return [(*way, (name.translate(for_lines), tuple(functions))) for way in above]

    return {way for name in tasks if name not in waiting for way in ways_to(name)}


def without_aexit(functions: list[str]) -> tuple[str, ...]:
    return tuple(name for name in functions if name != "_aexit")


def way_of(sample: Sample) -> tuple:
    return tuple((name, without_aexit(functions)) for name, functions in part(sample)[1])


IN_SELECT = ("_run_once", "select")


def suspended_in(profile: Profile, waiting: tuple[str, ...] = IN_SELECT) -> dict[tuple, float]:
    """Time of each way of suspended tasks, by what stands behind the loop's own frames."""
    found: dict[tuple, float] = {}
    for sample in profile.samples:
        front, tasks = part(sample)
        if tasks and tuple(front[-len(waiting) :]) == waiting and not sample.has("compute"):
            way = way_of(sample)
            found[way] = found.get(way, 0) + sample.metric
    return found


# What is not seen of a thread's time: where it computes, or asyncio has not been found yet.
SUSPENDED = 0.15


def check_suspended(
    profile: Profile, expected: dict, waiting: tuple[str, ...] = IN_SELECT
) -> None:
    """`waiting`: the thread's innermost functions while its loop waits. All are there, nothing else is, and the tasks that wait for no task have all of the time."""
    tasks = {"main": ("suspended", ["main", "wait"], [])}
    for construct, found in expected.items():
        if construct != "ring":  # of which any may be told as the innermost
            tasks.update(found)
    found = suspended_in(profile, waiting)
    rings = {way for way in found if way[0][0].startswith("ring/ring-")}
    ring_us = sum(found.pop(way) for way in rings)
    expected_ways = find_ways(tasks)
    if "ring" in expected:
        expected_ways.add((("ring/root", ("ring", *INNERMOST)),))
        assert [[name for name, _ in way] for way in rings] in (
            [["ring/ring-0", "ring/ring-1"]],
            [["ring/ring-1", "ring/ring-0"]],
        )
    assert set(found) == expected_ways
    duration_us = profile.figure("duration")
    by_leaf: dict[str, float] = {"ring": ring_us} if rings else {}
    for way, us in found.items():
        by_leaf[way[-1][0]] = by_leaf.get(way[-1][0], 0) + us
    for leaf, us in by_leaf.items():
        assert (1 - SUSPENDED) * duration_us <= us <= 1.001 * duration_us, leaf
    # The loop that waits has no time of its own then.
    own = profile.of_thread("MainThread")
    idle = [one for one in own if one.names[-1:] == waiting[-1:] and not part(one)[1]]
    assert sum(one.metric for one in idle) <= SUSPENDED * duration_us


def test_suspended_tasks_in_a_profile(every_python, echion, tmp_path):
    expected = expect(every_python.minor)
    with start_target(tmp_path, command(every_python, ",".join(expected))) as target:
        result = echion.run(["-p", str(target.pid)], "-x", "1").check()
    check_suspended(result.profile, expected)
    shared = [us for way, us in suspended_in(result.profile).items() if way[-1][0] == "shared/leaf"]
    assert len(shared) == 2 and shared[0] == pytest.approx(shared[1], rel=0.01)


def test_suspended_tasks_of_a_launch(python, echion, engine):
    expected = expect(python.minor)
    program = command(python, ",".join(expected), "ends")
    found = suspended_in(echion.run(program, "--engine", engine).check().profile)
    tasks = {"main": ("suspended", ["main", "wait"], [])}
    for found_tasks in expected.values():
        tasks.update(found_tasks)
    for way in find_ways({name: task for name, task in tasks.items() if "ring-" not in name}):
        assert found[way] > 0.4e6, way


def test_what_very_many_tasks_wait_for(any_python, echion, tmp_path):
    """Those that are too many to be told of have no time of their own."""
    with start_target(tmp_path, command(any_python, "fanned")) as target:
        profile = echion.run(["-p", str(target.pid)], "-x", "1").check().profile
    duration_us = profile.figure("duration")
    ways = suspended_in(profile)
    assert {way[-1][0] for way in ways} == {"fanned/leaf", "main"}
    for leaf in ("fanned/leaf", "main"):
        us = sum(us for way, us in ways.items() if way[-1][0] == leaf)
        assert (1 - SUSPENDED) * duration_us <= us <= 1.001 * duration_us


@pytest.mark.parametrize("which", ["none", "running", "all"])
@pytest.mark.parametrize("mode", [[], ["-c"]], ids=["wall", "cpu"])
def test_which_tasks_are_in_a_profile(any_python, echion, tmp_path, which, mode):
    with start_target(tmp_path, command(any_python, "running_below")) as target:
        options = ["-x", "0.5", "--tasks", which, *mode]
        profile = echion.run(["-p", str(target.pid)], *options).check().profile
    labels = {name for sample in profile.samples for name, _ in part(sample)[1]}
    running = {"main", "running_below/root", "running_below/runner"}
    suspended = {"running_below/other", "running_below/leaf"}
    assert labels - {"MISSED"} == {
        "none": set(),
        "running": running,
        "all": running | (set() if mode else suspended),
    }[which]
    computing = profile.total_with("compute")
    if not mode:
        assert computing >= 0.9 * profile.figure("duration")


def test_the_thread_of_a_task_is_looked_at_every_interval(python, echion, build_dir, tmp_path):
    """The kernel's snapshots, which may wait for 0.9 ms, have no tasks."""
    if reason := why_not("bpf", build_dir / "echion"):
        pytest.skip(reason)
    options = ["-x", "0.5", "-c", "-i", "250", "--engine", "bpf"]
    with start_target(tmp_path, command(python, "running_below")) as target:
        profile = echion.run(["-p", str(target.pid)], *options).check().profile
    used_us = sum(sample.metric for sample in profile.of_thread("MainThread"))
    assert profile.figure("ticks") > KEPT_TICKS * used_us / 250


def test_tasks_are_found_after_a_launch(python, echion):
    """asyncio is imported long after the sampler's first look."""
    program = [python.path, str(TARGETS / "task_churn.py"), "1"]
    judge_launched_churn(echion.run(program).check().profile)


RESTS_AT_ONCE = """
import asyncio

async def leaf():
    await asyncio.sleep(1)

async def main():
    await asyncio.create_task(leaf(), name="leaf")

async def nothing():
    pass

for _ in range({before}):
    asyncio.run(nothing())
asyncio.run(main())
"""


@pytest.mark.parametrize("before", [0, 1])
def test_a_loop_that_rests_at_once_is_found(every_python, echion, before):
    """The thread does not run between the moment when its loop begins and the sampler's next look
    for asyncio, or for the loop."""
    program = [every_python.path, "-c", RESTS_AT_ONCE.format(before=before)]
    profile = echion.run(program).check().profile
    leaf = [one for one in profile.samples if part(one)[1][-1:] == [("leaf", ["leaf", "sleep"])]]
    assert sum(one.metric for one in leaf) > 0.8e6


def judge_launched_churn(profile: Profile, in_front: Sequence[str] = ("_run",)) -> None:
    samples = [sample for sample in profile.samples if not sample.is_marked and sample.frames]
    with_labels = [one for one in samples if any("/" in name for name, _ in part(one)[1])]
    faults = {find_fault(sample, in_front) for sample in with_labels} - {""}
    assert not faults
    computing = [sample for sample in samples if sample.has("compute_leaf")]
    with_tasks = sum(sample.metric for sample in computing if part(sample)[1])
    assert with_tasks > 0.8 * sum(sample.metric for sample in computing)


def find_asyncio_debug(python) -> bytes:
    """The section in which asyncio's C module states its offsets (3.14 and later): of the module's
    own file, or of the program that has it built in."""
    query = "import _asyncio, sys; print(getattr(_asyncio, '__file__', sys.executable))"
    file = subprocess.run([python.path, "-c", query], capture_output=True, text=True, check=True)
    path = pathlib.Path(file.stdout.strip())
    sections = subprocess.run(["readelf", "-SW", path], capture_output=True, text=True, check=True)
    found = re.search(r"\.AsyncioDebug +PROGBITS +\w+ +(\w+) +(\w+)", sections.stdout)
    assert found, path
    offset, size = (int(number, 16) for number in found.groups())
    return path.read_bytes()[offset : offset + size]


def read_row(python, struct_name: str) -> dict[str, int]:
    """A structure of the version's row of layouts."""
    name = "layouts_lp64t.inc" if python.is_free_threaded else "layouts_lp64.inc"
    text = (TARGETS.parents[1] / "userspace" / "cpython" / name).read_text()
    row = text.split("// ---- %d.%d ----" % python.minor)[1].split("// ----")[0]
    fields = row.split(f"    .{struct_name} = {{")[1].split("},")[0]
    return {key: int(value) for key, value in re.findall(r"\.(\w+) = (\d+)", fields)}


def test_the_row_is_what_the_module_says(every_python):
    if every_python.minor < (3, 14):
        pytest.skip("CPython 3.14 and later state asyncio's offsets")
    stated = struct.unpack("<13Q", find_asyncio_debug(every_python))
    task = read_row(every_python, "task")
    state = read_row(every_python, "thread_state")
    interpreter = read_row(every_python, "interpreter")
    # Modules/_asynciomodule.c, Py_AsyncioModuleDebugOffsets: of a task its size, name, awaited_by,
    # is_task, awaited_by_is_set, coro and node; of an interpreter its size and list; of a thread its
    # size, loop, task and list.
    assert (task["size"], task["name"], task["coro"], task["node"]) == (*stated[:2], *stated[5:7])
    assert task["state"] + 4 == stated[3]
    assert interpreter["asyncio_tasks_head"] == stated[8]
    assert (
        state["asyncio_running_loop"],
        state["asyncio_running_task"],
        state["asyncio_tasks_head"],
    ) == stated[10:]
