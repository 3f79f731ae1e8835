"""What sampling costs the threads that are sampled.

Two runs of one Python program differ by several per cent, by where its memory happens to lie. So
one process works on without an end, and echion is attached to it and leaves it again: what its
thread needs for a piece of work meanwhile stands beside what it needed before and after.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Iterator

from measure import Bench, Interpreter, finish_bare_loop, heading, median

from attach_support import Target, start_target
from runner import TARGETS

DEPTH = 20
WINDOW_S = 0.5
# The slowest slices of a window are those in which the host paused the machine.
KEPT = 0.9

KINDS = {  # options of echion, and the aim
    "-i 1000": (("-i", "1000"), "1.01"),
    "-i 100": (("-i", "100"), "1.03"),
    "-c -i 1000": (("-c", "-i", "1000"), "1.005"),
    "-c -i 100": (("-c", "-i", "100"), "1.02"),
    "-i 1000, clock": (("-i", "1000", "--engine", "clock"), ""),
    "-i 1000, clock, not followed": (("-i", "1000", "--engine", "clock", "--no-follow"), ""),
    "-i 100, clock, not followed": (("-i", "100", "--engine", "clock", "--no-follow"), ""),
    "-i 100, bpf": (("-i", "100", "--engine", "bpf"), ""),
    "-c -i 1000, clock": (("-c", "-i", "1000", "--engine", "clock"), ""),
    "-c -i 100, clock": (("-c", "-i", "100", "--engine", "clock"), ""),
}
BARE_US = (1000, 100)

Window = tuple[float, float]  # from, until: CLOCK_MONOTONIC in seconds


def work_undisturbed() -> Window:
    """Lets the target work for a window's time."""
    begin = time.monotonic()
    time.sleep(WINDOW_S)
    return begin, time.monotonic()


def work_sampled(bench: Bench, target: Target, options: tuple[str, ...]) -> tuple[Window, float]:
    """The window, and the share of a CPU that the sampler used."""
    with bench.echion.start([], *options, "-p", str(target.pid)) as running:
        target.wait_until_sampled()
        window = work_undisturbed()
        running.process.send_signal(signal.SIGINT)
        profile = running.finish().profile
    return window, profile.figure("sampler_cpu_ns") / 1e3 / profile.figure("duration")


@contextlib.contextmanager
def kept_on_one_cpu(target: Target) -> Iterator[int]:
    allowed = os.sched_getaffinity(target.pid)
    cpu = min(allowed)
    os.sched_setaffinity(target.pid, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(target.pid, allowed)


def work_beside_bare_loop(bench: Bench, target: Target, interval_us: int) -> tuple[Window, Window]:
    """A window without, and one with a thread on the same CPU that only wakes up."""
    with kept_on_one_cpu(target) as cpu:
        plain = work_undisturbed()
        # As promptly as a sampler wakes up. Longer than the window, which begins when it is under way.
        wrap = ("taskset", "-c", str(cpu), "chrt", "-f", "1")
        loop = bench.start_bare_loop(interval_us, 2 * WINDOW_S, wrap)
        while len(os.listdir(f"/proc/{loop.pid}/task")) < 2:
            time.sleep(0.01)
        window = work_undisturbed()
        finish_bare_loop(loop)
    return plain, window


def cost(slices: list[list[float]], window: Window, column: int) -> float:
    """Mean time of a slice that lies in the window."""
    begin, end = window
    inside = sorted(one[column] for one in slices if begin <= one[0] and one[0] + one[2] <= end)
    kept = inside[: max(1, int(len(inside) * KEPT))]
    return sum(kept) / len(kept)


def compare(slices: list[list[float]], window: Window, beside: list[Window], column: int) -> float:
    """Mean time of a slice in the window, beside the windows without sampling."""
    return cost(slices, window, column) / median(cost(slices, one, column) for one in beside)


def slowdown(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """CPU and wall time that the target's thread needs for the same work, sampled and not."""
    repeats = max(9, repeats)
    heading(f"time of the target's thread for the same work, ratio, interleaved, median of {repeats}")
    print("  bare: a thread that only wakes up on the same CPU, which no sampler that follows the"
          "\n  thread to its CPU can be cheaper than; not followed: from another CPU, unproved")
    figures = {}
    for python in pythons:
        command = [python.path, str(TARGETS / "slices.py"), str(DEPTH)]
        # (kind, window, windows beside it, share of a CPU)
        seen: list[tuple[str, Window, list[Window], float]] = []
        with start_target(bench.folder, command) as target:
            before = work_undisturbed()
            for _ in range(repeats):
                for kind, (options, _) in KINDS.items():
                    window, share = work_sampled(bench, target, options)
                    after = work_undisturbed()
                    seen.append((kind, window, [before, after], share))
                    before = after
                for interval_us in BARE_US if os.geteuid() == 0 else ():
                    plain, window = work_beside_bare_loop(bench, target, interval_us)
                    seen.append((f"bare, {interval_us} µs", window, [plain], 0.0))
                    before = work_undisturbed()
            slices = target.finish()["slices"]
        for kind in dict.fromkeys(one[0] for one in seen):
            ones = [one for one in seen if one[0] == kind]
            row = {"sampler": median(one[3] for one in ones)}
            for column, name in ((1, "cpu"), (2, "wall")):
                ratios = [
                    compare(slices, window, beside, column) for _, window, beside, _ in ones
                ]
                row[name] = median(ratios)
                row[f"{name}_low"], row[f"{name}_high"] = min(ratios), max(ratios)
            figures[f"{python.name} {kind}"] = row
            aim = KINDS.get(kind, ((), ""))[1]
            print(f"  {python.name:14} {kind:29} CPU × {row['cpu']:6.4f}"
                  f" ({row['cpu_low']:.3f} to {row['cpu_high']:.3f})"
                  f" {f'(aim: {aim})' if aim else '':12} wall × {row['wall']:6.4f}"
                  f"  sampler {row['sampler']:6.2%} of a CPU", flush=True)
    return figures
