"""What is in the kernel for a run of echion goes with it, and runs do not meet there."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

from attach_support import start_target
from interpreters import Interpreter
from places import open_to_all
from runner import TARGETS, Echion
from test_cpu_time import check_short_threads

GONE_WITHIN_S = 30  # the kernel frees after a grace period, longer on a busy machine


@pytest.fixture(autouse=True)
def _needs(engine: str) -> None:
    if engine != "bpf":
        pytest.skip("nothing of the fallback is in the kernel")


def bpftool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("bpftool", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        pytest.skip("bpftool is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)


def held(pid: int, kind: str) -> set[str]:
    """Ids of the programs or maps that a process has descriptors of."""
    ids: set[str] = set()
    for info in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            ids.update(re.findall(rf"^{kind}_id:\s+(\d+)$", info.read_text(), re.MULTILINE))
        except OSError:
            continue
    return ids


def in_kernel(kind: str) -> set[str]:
    return set(re.findall(r"^(\d+): ", bpftool(kind, "show").stdout, re.MULTILINE))


def start_busy(echion: Echion, python: Interpreter):
    return echion.start(
        [python.path, str(TARGETS / "busy.py"), "20", "100000"], "-c", "--engine", "bpf"
    )


ENDS = {
    "command": lambda running, target: os.kill(target, signal.SIGKILL),
    # As the terminal does: both get it.
    "interrupt": lambda running, target: os.killpg(running.process.pid, signal.SIGINT),
    "sigkill": lambda running, target: running.process.kill(),
}


@pytest.mark.parametrize("end", ENDS)
def test_programs_and_maps_go_with_the_run(
    echion: Echion, any_python: Interpreter, end: str
) -> None:
    with start_busy(echion, any_python) as running:
        target = running.wait_ready()
        pid = running.process.pid
        programs, maps = held(pid, "prog"), held(pid, "map")
        assert len(programs) >= 5 and len(maps) >= 5
        assert programs <= in_kernel("prog") and maps <= in_kernel("map")
        ENDS[end](running, target)
        running.process.wait(60)
        deadline = time.monotonic() + GONE_WITHIN_S
        while (programs & in_kernel("prog")) or (maps & in_kernel("map")):
            assert time.monotonic() < deadline, (programs, maps)
            time.sleep(0.05)


def test_the_target_gets_no_descriptor_of_a_perf_event(
    echion: Echion, any_python: Interpreter
) -> None:
    with start_busy(echion, any_python) as running:
        target = running.wait_ready()
        descriptors = []
        for link in pathlib.Path(f"/proc/{target}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # one that was open for a moment
                descriptors.append(os.readlink(link))
        assert not [name for name in descriptors if "perf_event" in name or "bpf-prog" in name]


def test_two_runs_at_once_do_not_meet(echion: Echion, any_python: Interpreter) -> None:
    command = [any_python.path, str(TARGETS / "cpu_figures.py"), "busy", "1.5"]
    with echion.start(command, "-c", "--engine", "bpf") as one:
        with echion.start(command, "-c", "--engine", "bpf") as other:
            results = [one.finish().check(), other.finish().check()]
    for result in results:
        pids = {sample.pid for sample in result.profile.samples}
        assert len(pids) == 1
        expected = sum(figures["cpu_us"] for figures in result.report["threads"].values())
        sampler = result.profile.thread_totals().get("echion.core.sampler", 0)
        seen = result.profile.total() - sampler
        # The interpreter's start and end are in the profile, but no other process.
        assert expected * 0.99 <= seen <= expected * 1.01 + 200_000


def test_another_users_process_in_namespaces_of_its_own(echion: Echion, tmp_path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    python = "/usr/bin/python3"  # one that every user may run
    if not os.access(python, os.X_OK):
        pytest.skip(f"no {python}")
    away = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    as_nobody = {"user": 65534, "group": 65534, "cwd": "/"}
    probe = subprocess.run([*away, "true"], capture_output=True, text=True, **as_nobody)
    if probe.returncode:
        pytest.skip(f"no namespaces for ordinary users here: {probe.stderr.strip()}")
    targets = shutil.copytree(TARGETS, tmp_path / "targets")
    open_to_all(tmp_path)
    for one in (targets, *targets.rglob("*")):
        one.chmod(one.stat().st_mode | 0o055)
    command = [*away, python, str(targets / "busy.py"), "20", "100000"]
    with start_target(tmp_path, command, **as_nobody) as busy:
        children = f"/proc/{busy.process.pid}/task/{busy.process.pid}/children"
        pid = int(pathlib.Path(children).read_text())
        assert busy.pid == 1 != pid, "the target sees a number of its own"
        result = echion.run(["-p", str(pid)], "-c", "-x", "1", "--engine", "bpf").check()
    profile = result.profile
    assert profile.header["engine"] == "bpf"
    assert {sample.pid for sample in profile.samples} == {pid}
    assert profile.total_with("work", "unit", thread="MainThread") > 100_000
    assert profile.figure("snapshots") > 100
    assert profile.figure("snapshots_unused") < profile.figure("snapshots") / 10


def test_cpu_time_since_the_last_tick_is_not_lost(echion: Echion, any_python: Interpreter) -> None:
    # Each thread lives 5 ms, so that no tick falls due in any but the first.
    result = echion.run_target(
        any_python, "cpu_figures", "short", "1", options=["-c", "-i", "1s", "--engine", "bpf"]
    ).check()
    check_short_threads(result, tolerance=0.01)
