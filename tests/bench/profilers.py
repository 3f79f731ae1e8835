"""CPython's own sampling profiler (`profiling.sampling`, from 3.15 on) beside echion, on the same
programs in the same run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import time
from typing import Iterator

from measure import Bench, Interpreter, heading, median
from slowdown import DEPTH, Window, cost, work_undisturbed

from attach_support import Target, start_target
from possible import Grammar, judge
from profile_text import Frame, Sample
from runner import TARGETS, TIMEOUT_S

INTERVALS_US = (1000, 100)
KNOWN_STACKS_S = 8.0
FIRST_WITH_A_PROFILER = (3, 15)
PROFILERS = {  # the options of each
    "echion": (),
    "profiling.sampling": (),
    "profiling.sampling --blocking": ("--blocking",),
}


@dataclasses.dataclass
class Seen:
    """What a profiler says of its run."""

    samples: float
    seconds: float
    # Of its samples: which cannot exist, and which it says itself are not to be trusted or failed.
    impossible: float = 0.0
    marked: float = 0.0


def cpu_s(target: Target, profiler: subprocess.Popen) -> float:
    """CPU time that the profiler has used: its process, and its threads in the target."""
    total = thread_s(profiler.pid)
    for tid in target.threads():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            folder = pathlib.Path(f"/proc/{target.pid}/task/{tid}")
            if (folder / "comm").read_text().startswith("echion"):
                total += int((folder / "schedstat").read_text().split()[0]) / 1e9
    return total


def thread_s(pid: int) -> float:
    total = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            total += int(pathlib.Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split()[0])
    return total / 1e9


def wait_until_it_samples(profiler: subprocess.Popen) -> None:
    """Its module that reads other processes is loaded, and it has worked on for a while since."""
    deadline = time.monotonic() + TIMEOUT_S
    begun_s = None
    while begun_s is None or thread_s(profiler.pid) - begun_s < 0.05:
        assert profiler.poll() is None and time.monotonic() < deadline, "profiling.sampling fails"
        maps = pathlib.Path(f"/proc/{profiler.pid}/maps").read_text()
        if begun_s is None and "_remote_debugging" in maps:
            begun_s = thread_s(profiler.pid)
        time.sleep(0.005)


class Running:
    """One profiler at work on a target."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.seen: Seen | None = None


@contextlib.contextmanager
def sampling(
    bench: Bench, python: Interpreter, target: Target, name: str, interval_us: int, grammar=None
) -> Iterator[Running]:
    """Samples every thread of the target, and then says what was seen."""
    if name == "echion":
        with bench.echion.start([], "-i", str(interval_us), "-p", str(target.pid)) as started:
            target.wait_until_sampled()
            running = Running(started.process)
            yield running
            started.process.send_signal(signal.SIGINT)
            profile = started.finish().check().profile
        running.seen = Seen(profile.figure("samples"), profile.figure("duration") / 1e6)
        if grammar:
            verdict = judge(profile, grammar)
            # Equal stacks one after the other are one line.
            running.seen.impossible = verdict.impossible / max(1, verdict.lines)
            running.seen.marked = verdict.marked_samples / verdict.samples
        return
    output = bench.folder / "collapsed"
    output.unlink(missing_ok=True)
    words = [python.path, "-m", "profiling.sampling", "attach", "-a", "--collapsed"]
    words += [*PROFILERS[name], "-r", str(1_000_000 // interval_us), "-o", output, target.pid]
    process = subprocess.Popen(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    running = Running(process)
    wait_until_it_samples(process)
    yield running
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=TIMEOUT_S)[0]
    captured = re.search(r"Captured ([\d,]+) samples? in ([\d.,]+) seconds", said)
    assert captured, said
    running.seen = Seen(*(float(figure.replace(",", "")) for figure in captured.groups()))
    if grammar:
        running.seen.impossible = impossible_share(output, grammar)
        running.seen.marked = float(re.search(r"Error rate: ([\d.,]+)", said)[1]) / 100


# What it adds between Python's frames, or has of the interpreter's own: <GC>, <native>, and the frame
# that calls a class's __init__().
SHIM = "__init__:__init__:-1"


def impossible_share(collapsed: pathlib.Path, described: dict) -> float:
    """In doubt for the profiler: a stack with a frame that has no line is taken for possible."""
    grammar = Grammar(described)
    impossible = total = 0
    for line in collapsed.read_text().splitlines():
        stack, count = line.rsplit(" ", 1)
        parts = [part for part in stack.split(";")[1:] if part.count(":") >= 2 and part != SHIM]
        frames = tuple(
            Frame(*part.rsplit(":", 2)[:2], int(part.rsplit(":", 1)[1])) for part in parts
        )
        total += int(count)
        has_lines = frames and all(frame.line >= 0 for frame in frames)
        if has_lines and grammar.fault(Sample(0, 0, "", frames, int(count))):
            impossible += int(count)
    return impossible / max(1, total)


def cost_rows(bench: Bench, python: Interpreter, repeats: int) -> dict:
    """Rate reached, CPU of the profiler, and what the target's thread needs for the same work."""
    command = [python.path, str(TARGETS / "slices.py"), str(DEPTH)]
    seen: list[tuple[str, int, Window, list[Window], float, Seen]] = []
    with start_target(bench.folder, command) as target:
        before = work_undisturbed()
        for _ in range(repeats):
            for interval_us in INTERVALS_US:
                for name in PROFILERS:
                    with sampling(bench, python, target, name, interval_us) as running:
                        begin_s = cpu_s(target, running.process)
                        window = work_undisturbed()
                        used_s = cpu_s(target, running.process) - begin_s
                    after = work_undisturbed()
                    share = used_s / (window[1] - window[0])
                    seen.append((name, interval_us, window, [before, after], share, running.seen))
                    before = after
        slices = target.finish()["slices"]
    figures = {}
    for interval_us in INTERVALS_US:
        for name in PROFILERS:
            ones = [one for one in seen if one[:2] == (name, interval_us)]
            row = {
                "rate": median(one[5].samples / one[5].seconds for one in ones),
                "cpu": median(one[4] for one in ones),
            }
            for column, key in ((1, "target_cpu"), (2, "target_wall")):
                row[key] = median(
                    cost(slices, window, column)
                    / median(cost(slices, plain, column) for plain in beside)
                    for _, _, window, beside, _, _ in ones
                )
            figures[name, interval_us] = row
    return figures


def truth_rows(bench: Bench, python: Interpreter) -> dict:
    """Stacks that cannot exist, and those that the profiler itself does not stand for."""
    figures = {}
    for interval_us in INTERVALS_US:
        for name in PROFILERS:
            command = [python.path, str(TARGETS / "known_stacks.py"), str(KNOWN_STACKS_S)]
            # The marks are told at the end of a run: those of a short one are the same.
            described = bench.unsampled(python, "known_stacks", "0.1")["possible"]
            with start_target(bench.folder, command) as target:
                with sampling(bench, python, target, name, interval_us, described) as running:
                    time.sleep(KNOWN_STACKS_S / 2)
            figures[name, interval_us] = {
                "impossible": running.seen.impossible, "marked": running.seen.marked
            }
    return figures


def profilers(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """echion and CPython's own profiler, each on its own, interleaved."""
    repeats = max(5, repeats)
    heading(f"echion and CPython's own profiler, each attached to the same process, median of {repeats}")
    print("  impossible: of a program whose stacks are known, a million samples; unsure: marked by echion,"
          "\n  or failed. With --blocking, the target is stopped by ptrace for each sample.")
    figures = {}
    if os.geteuid() != 0:
        print("  attaching needs root: skipped")
        return figures
    for python in pythons:
        if python.minor < FIRST_WITH_A_PROFILER:
            print(f"  {python.name:10} has no profiler of its own: skipped")
            continue
        costs, truths = cost_rows(bench, python, repeats), truth_rows(bench, python)
        for (name, interval_us), row in costs.items():
            row.update(truths[name, interval_us])
            figures[f"{python.name} {name} {interval_us}"] = row
            print(f"  {python.name:8} {1_000_000 // interval_us:6,} Hz {name:30}"
                  f" {row['rate']:8,.0f} a second, {row['cpu']:7.2%} of a CPU,"
                  f" target's CPU × {row['target_cpu']:5.3f}, wall × {row['target_wall']:5.3f},"
                  f" {row['impossible'] * 1e6:9,.0f} impossible, {row['marked']:7.3%} unsure",
                  flush=True)
    return figures
