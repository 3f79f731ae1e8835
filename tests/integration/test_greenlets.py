"""Greenlets of `greenlet` and gevent: their stacks, their states, and who waits for whom."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from attach_support import Target, start_target
from interpreters import Interpreter
from runner import TARGETS, TIMEOUT_S
from test_tasks import functions_of

PAUSE, EPOLL_WAIT, EPOLL_PWAIT = "34", "232", "281"  # system calls
MAIN, HUB = "<main>", "<hub>"
LEAF = ("suspended", ["leaf", "innermost"], "Event")


def tree(construct: str, functions: list[str], *leaves: str) -> dict:
    """Of a root that waits for leaves by itself."""
    found = {f"{construct}/root": ("suspended", [construct, *functions], None, [MAIN])}
    for leaf in leaves:
        found[f"{construct}/{leaf}"] = (*LEAF, [f"{construct}/root"])
    return found


def waits(construct: str, functions: list[str], awaited: str | None) -> dict:
    """Of a root that waits for something else than greenlets."""
    return {f"{construct}/root": ("suspended", [construct, *functions], awaited, [MAIN])}


TWO = ("leaf-1", "leaf-2")
# {construct: {name: (state, functions from the outermost to the innermost, the type of what it waits
# for unless that is a greenlet, waiters)}}. Functions compiled by Cython have no frames.
EXPECTED = {
    "joined": tree("joined", [], "leaf"),
    "got": tree("got", [], "leaf"),
    "all_joined": tree("all_joined", [], *TWO),
    "waited": tree("waited", [], *TWO),
    "waited_for_any": tree("waited_for_any", [], *TWO),
    "iterated": tree("iterated", [], *TWO),
    "result_got": {
        **waits("result_got", [], "AsyncResult"),
        "result_got/leaf": (*LEAF, ["result_got/root"]),
    },
    "pool_joined": {
        **waits("pool_joined", ["join"], "Event"),
        "pool_joined/leaf-1": (*LEAF, ["pool_joined/root"]),
        "pool_joined/leaf-2": (*LEAF, ["pool_joined/root"]),
    },
    "pool_full": {
        **waits("pool_full", ["start", "add"], "Semaphore"),
        "pool_full/next": ("not started", [], None, []),
        "pool_full/leaf": (*LEAF, ["pool_full/root"]),
    },
    "mapped": {
        **waits("mapped", ["map"], None),
        "__map": ("suspended", ["__map"], None, ["mapped/root"]),
        "mapped/leaf": ("suspended", ["work", "leaf", "innermost"], "Event", ["__map"]),
    },
    "mapped_one_by_one": {
        **waits("mapped_one_by_one", [], "UnboundQueue"),
        "mapped_one_by_one/leaf": (
            "suspended",
            ["work", "leaf", "innermost"],
            "Event",
            ["mapped_one_by_one/root"],
        ),
    },
    "queued": waits("queued", [], "Queue"),
    "slept": waits("slept", ["sleep"], None),
    "locked": waits("locked", [], "Semaphore"),
    "ring": {
        "ring/ring-0": ("suspended", ["wait_for_other"], None, ["ring/ring-1"]),
        "ring/ring-1": ("suspended", ["wait_for_other"], None, ["ring/ring-0"]),
    },
    "deep": {
        **waits("deep", [], None),
        "deep/middle": ("suspended", ["middle"], None, ["deep/root"]),
        "deep/leaf": (*LEAF, ["deep/middle"]),
    },
    "not_started": {
        **waits("not_started", ["innermost"], "Event"),
        "not_started/leaf": ("not started", [], None, []),
    },
    "threaded": waits("threaded", ["apply"], "AsyncResult"),
}


def call_it(greenlet: dict) -> str:
    """What a test calls it: its name, or that of its outermost function, or its type."""
    special = {"main": MAIN, "hub": HUB}
    if greenlet["kind"] in special:
        return special[greenlet["kind"]]
    function = (greenlet["function"] or "").rpartition(".")[2]
    return greenlet["name"] or function or greenlet["type"]


class Report:
    """What `-w --json` says of the greenlets of one thread."""

    def __init__(self, thread: dict):
        self.thread = thread
        self.functions = functions_of(thread)
        self.by_id = {one["id"]: call_it(one) for one in thread["greenlets"]}
        self.greenlets = {
            call_it(one): (
                one["state"],
                without_comprehension(functions_of(one)),
                one["waits_for"],
                sorted(self.by_id[waiter] for waiter in one["waiters"]),
            )
            for one in thread["greenlets"]
        }
        self.parents = {
            call_it(one): self.by_id.get(one["parent"]) for one in thread["greenlets"]
        }
        assert len(self.greenlets) == len(thread["greenlets"]), self.by_id
        assert not any(one["broken"] or one["truncated"] for one in thread["greenlets"])


def without_comprehension(functions: list[str]) -> list[str]:
    """Up to 3.11 they have frames of their own."""
    return [one for one in functions if one != "<listcomp>"]


def look_at_all(build_dir, target: Target) -> dict:
    done = subprocess.run(
        [build_dir / "echion", "-w", str(target.pid), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["greenlets_found"], document
    assert document["greenlets_unreadable"] == 0
    return document


def is_proved(thread: dict) -> bool:
    return (
        thread["greenlets_consistency"] == "proved"
        and thread["greenlets_complete"]
        and thread["consistency"] == "proved"
    )


def look(build_dir, target: Target) -> Report:
    document = look_at_all(build_dir, target)
    assert document["greenlets_unplaced"] == 0
    (thread,) = [one for one in document["threads"] if one["main"]]
    assert is_proved(thread), thread
    return Report(thread)


def wait_in(target: Target, *calls: str) -> None:
    """Waits until the target's main thread is blocked in one of these calls."""
    path = pathlib.Path(f"/proc/{target.pid}/syscall")
    deadline = time.monotonic() + TIMEOUT_S
    while (word := path.read_text().split()[0]) not in calls:
        assert time.monotonic() < deadline, f"the target is in the call {word}"
        time.sleep(0.001)


def command(python: Interpreter, *arguments: str) -> list[str]:
    return [python.path, str(TARGETS / "greenlets.py"), *arguments]


PLAIN = {
    "outer": ("suspended", ["outer", "leave"], MAIN),
    "inner": ("suspended", ["inner", "leave"], "outer"),
    "generating": ("suspended", ["generating", "generate", "leave"], MAIN),
    "sorting": ("suspended", ["sorting", "key", "leave"], MAIN),
    "deep": ("suspended", ["deep"] * 31 + ["leave"], MAIN),
    "running": ("running", ["running", "hold"], MAIN),
    MAIN: ("suspended", ["<module>", "plain"], None),
}


def check_plain(thread: dict, main_functions: list[str]) -> None:
    greenlets = thread["greenlets"]
    # Two of the same function.
    (started,) = [one for one in greenlets if one["state"] == "not started"]
    assert started["function"].endswith("inner") and not started["frames"]
    report = Report(dict(thread, greenlets=[one for one in greenlets if one is not started]))
    found = {
        name: (state, functions, report.parents[name])
        for name, (state, functions, _, _) in report.greenlets.items()
    }
    assert found == {**PLAIN, MAIN: ("suspended", main_functions, None)}
    assert report.by_id[started["parent"]] == MAIN
    assert report.functions == ["running", "hold"]
    assert {one["type"] for one in greenlets} == {"greenlet", "Derived"}


@pytest.mark.parametrize("variant", ["", "greenlet-1.1.3", "greenlet-2.0.2"])
def test_plain_greenlets(every_python, build_dir, packages, tmp_path, variant):
    python = every_python
    if variant and python.minor != (3, 8):
        pytest.skip("scripts/packages has old versions of greenlet for CPython 3.8 only")
    env = packages(python, "greenlet", variant=variant)
    with start_target(tmp_path, command(python, "plain"), env) as target:
        wait_in(target, PAUSE)
        document = look_at_all(build_dir, target)
    (thread,) = document["threads"]
    assert is_proved(thread)
    check_plain(thread, ["<module>", "plain"])


def test_greenlets_of_gevent(every_python, build_dir, packages, tmp_path):
    env = packages(every_python, "greenlet", "gevent")
    with start_target(tmp_path, command(every_python, ",".join(EXPECTED)), env) as target:
        wait_in(target, EPOLL_WAIT, EPOLL_PWAIT)
        report = look(build_dir, target)
    wanted = {
        MAIN: ("suspended", ["<module>", "of_gevent"], None, []),
        HUB: ("running", ["run"], None, []),
    }
    for greenlets in EXPECTED.values():
        wanted.update(greenlets)
    assert {name: report.greenlets.get(name) for name in wanted} == wanted
    assert set(report.greenlets) == set(wanted)
    assert report.functions == ["run"]
    parents = dict.fromkeys(wanted, HUB)
    parents.update({MAIN: None, HUB: MAIN})
    assert report.parents == parents


def test_greenlets_of_gevent_in_python(python, build_dir, packages, tmp_path):
    """Where gevent is not compiled, its functions have frames, and its types are classes."""
    env = {**packages(python, "greenlet", "gevent"), "PURE_PYTHON": "1"}
    with start_target(tmp_path, command(python, ",".join(EXPECTED)), env) as target:
        wait_in(target, EPOLL_WAIT, EPOLL_PWAIT)
        document = look_at_all(build_dir, target)
    (thread,) = [one for one in document["threads"] if one["main"]]
    names = {one["id"]: one["name"] for one in thread["greenlets"]}
    waiters = {
        one["name"]: sorted(names[waiter] for waiter in one["waiters"] if names[waiter])
        for one in thread["greenlets"]
        if one["name"]
    }
    for construct in EXPECTED.values():
        for name, (_, _, _, wanted) in construct.items():
            if "/" in name and not name.startswith("mapped_one_by_one") and not {MAIN, "__map"} & set(wanted):
                assert waiters[name] == wanted, name


def test_a_greenlet_in_a_task(python, build_dir, packages, tmp_path):
    env = packages(python, "greenlet")
    with start_target(tmp_path, command(python, "bridge"), env) as target:
        wait_in(target, EPOLL_WAIT, EPOLL_PWAIT)
        report = look(build_dir, target)
    assert report.functions[-2:] == ["_run_once", "select"]
    assert report.greenlets["query"] == ("suspended", ["query", "await_only"], None, [])
    assert report.parents == {"query": MAIN, MAIN: None}
    assert report.greenlets[MAIN][0] == "running"
    (task,) = [one for one in report.thread["tasks"] if one["name"] == "session"]
    assert functions_of(task) == ["session", "spawn_greenlet", "wait"]


def test_each_thread_has_its_own(python, build_dir, packages, tmp_path):
    env = packages(python, "greenlet", "gevent")
    with start_target(tmp_path, command(python, "threads"), env) as target:
        wait_in(target, PAUSE)
        document = look_at_all(build_dir, target)
    threads = {one["name"]: one for one in document["threads"]}
    for given in ("one", "two"):
        assert is_proved(threads[given])
        report = Report(threads[given])
        root, leaf = f"{given}/root", f"{given}/leaf"
        assert set(report.greenlets) == {MAIN, HUB, root, leaf}
        assert report.greenlets[root] == ("suspended", [], None, [MAIN])
        assert report.greenlets[leaf] == ("suspended", ["sleep"], None, [root])
        assert report.greenlets[HUB][:2] == ("running", ["run"])
        assert report.greenlets[MAIN][1][-1] == "run"
    check_plain(threads["MainThread"], ["<module>", "threads", "plain"])


def test_the_text_is_a_tree(any_python, build_dir, packages, tmp_path):
    env = packages(any_python, "greenlet", "gevent")
    with start_target(tmp_path, command(any_python, "joined,queued,slept"), env) as target:
        wait_in(target, EPOLL_WAIT, EPOLL_PWAIT)
        done = subprocess.run(
            [build_dir / "echion", "-w", str(target.pid)], capture_output=True, text=True
        )
    lines = re.sub(r"#\d+", "#N", done.stderr).splitlines()
    at = next(i for i, line in enumerate(lines) if "greenlets:" in line)
    outline = [line for line in lines[at:] if ".py:" not in line and line]
    assert outline == [
        "        6 greenlets:",
        "        main greenlet (<module>): waits for 3 greenlets",
        "            Hub#N (Hub.run): running",
        "            slept/root (slept): suspended",
        "            joined/root (joined): waits for joined/leaf",
        "                joined/leaf (leaf): waits for a Event",
        "            queued/root (queued): waits for a Queue",
    ]
    assert "        greenlet Hub#N:" in lines[:at]


def test_a_report_at_sigquit_has_them(python, echion, packages):
    env = packages(python, "greenlet")
    with echion.start(command(python, "plain"), env=env) as running:
        pid = running.wait_ready()
        os.kill(pid, signal.SIGQUIT)
        text = ""
        for line in running.process.stderr:
            text += line
            if "not started yet" in line:
                break
        os.kill(pid, signal.SIGKILL)
    assert "generating): suspended" in text


def test_frames_of_greenlets_that_switch_are_possible(python, build_dir, packages, tmp_path):
    """Each report is of one moment, or says that it may not be."""
    env = packages(python, "greenlet")
    seen = 0
    with start_target(tmp_path, command(python, "churn"), env) as target:
        for _ in range(20):
            done = subprocess.run(
                [build_dir / "echion", "-w", str(target.pid), "--json"],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            document = json.loads(done.stdout)
            assert document["greenlets_unreadable"] == 0
            for thread in document["threads"]:
                if thread.get("greenlets_consistency") == "proved":
                    seen += check_churn(thread)
    assert seen > 0


def check_churn(thread: dict) -> int:
    """How many suspended greenlets' frames are right."""
    count = 0
    for one in thread["greenlets"]:
        functions = functions_of(one)
        assert not one["broken"], one
        if one["kind"] != "greenlet" or one["state"] != "suspended":
            continue
        count += 1
        if functions[0] == "churn_root":
            assert functions == ["churn_root"], one
        else:
            assert set(functions) == {"churn_leaf"} and len(functions) <= 10, one
    return count
