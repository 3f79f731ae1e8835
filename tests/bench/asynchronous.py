"""What sampling costs programs of asyncio's tasks and of greenlets, and servers."""

from __future__ import annotations

import os
import pathlib
import signal
from typing import Callable, TypeVar

from measure import Bench, Interpreter, heading, median, per_tick_us
from slowdown import Window, compare, work_sampled, work_undisturbed

from attach_support import Target, start_target
from packages import find_packages
from runner import TARGETS
from servers import SERVERS, ask_once, load, make_socket

PROGRAMS = {  # arguments of async_slices.py, and packages
    "tasks": (["tasks"], ()),
    "tasks, uvloop": (["tasks", "uvloop"], ("uvloop",)),
    "greenlets": (["greenlets"], ("greenlet",)),
    "gevent": (["gevent"], ("gevent",)),
}
OPTIONS = {
    "-i 10 ms": ("-i", "10ms"),
    "-i 1 ms": ("-i", "1ms"),
    "-c -i 10 ms": ("-c", "-i", "10ms"),
    "-c -i 1 ms": ("-c", "-i", "1ms"),
}
LEAST_REPEATS = 9
TASKS = ((10, 0), (100, 0), (1000, 0), (10000, 0), (1000, 1000))  # in all, and that change
REQUESTS = 400
Ratios = dict[str, list[float]]
Seen = TypeVar("Seen")


def environment(folder: pathlib.Path | None) -> dict[str, str]:
    return {"PYTHONPATH": os.fspath(folder)} if folder else {}


def interleave(
    repeats: int, plain: Callable[[], Seen], sampled: Callable[[tuple[str, ...]], Seen]
) -> list[tuple[str, Seen, list[Seen]]]:
    """(kind, what was seen while sampled so, and without before and after it), again and again."""
    seen = []
    before = plain()
    for _ in range(repeats):
        for kind, options in OPTIONS.items():
            one = sampled(options)
            after = plain()
            seen.append((kind, one, [before, after]))
            before = after
    return seen


def show(name: str, ratios: dict[str, Ratios]) -> dict[str, dict[str, float]]:
    """Prints medians of ratios; ratios: kind of run → what is compared → ratios."""
    rows = {}
    for kind, compared in ratios.items():
        rows[kind] = {}
        text = f"  {name:32} {kind:12}"
        for what, values in compared.items():
            rows[kind][what] = median(values)
            text += f"  {what} × {median(values):6.3f} ({min(values):.2f} to {max(values):.2f})"
        print(text, flush=True)
    return rows


def async_work(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """CPU and wall time that the thread needs for the same work, sampled and not."""
    repeats = max(LEAST_REPEATS, repeats)
    heading(f"tasks and greenlets: time for the same work, ratio, interleaved, median of {repeats}")
    figures = {}
    for python in pythons:
        for program, (arguments, packages) in PROGRAMS.items():
            folder = find_packages(python, *packages) if packages else None
            if isinstance(folder, str):
                print(f"  {python.name} {program}: {folder}")
                continue
            command = [python.path, str(TARGETS / "async_slices.py"), *arguments]
            with start_target(bench.folder, command, environment(folder)) as target:
                seen: list[tuple[str, Window, list[Window]]] = interleave(
                    repeats,
                    work_undisturbed,
                    lambda options: work_sampled(bench, target, options)[0],
                )
                slices = target.finish()["slices"]
            ratios: dict[str, Ratios] = {kind: {"CPU": [], "wall": []} for kind in OPTIONS}
            for kind, window, beside in seen:
                for column, what in ((1, "CPU"), (2, "wall")):
                    ratios[kind][what].append(compare(slices, window, beside, column))
            name = f"{python.name} {program}"
            figures[name] = show(name, ratios)
    return figures


def tasks(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """What a tick costs beside so many suspended tasks."""
    heading(f"own work a tick in µs, -i 1ms, median of {repeats}; a task wakes up every 0.5 ms")
    print(f"  {'python':14} {'tasks':>7} {'change':>7} {'none':>7} {'all':>7}")
    figures = {}
    for python in pythons:
        for count, changing in TASKS:
            row = {}
            for which in ("none", "all"):
                results = [
                    bench.sampled(
                        python, "many_tasks", str(count), str(changing), "2",
                        options=["-i", "1ms", "--tasks", which],
                    )
                    for _ in range(repeats)
                ]
                row[which] = median(per_tick_us(one, "sampler_tick_ns") for one in results)
            figures[f"{python.name} {count}, {changing}"] = row
            print(f"  {python.name:14} {count:7} {changing:7} {row['none']:7.1f} {row['all']:7.1f}",
                  flush=True)
    return figures


def load_sampled(bench: Bench, target: Target, options: tuple[str, ...], listening) -> list[float]:
    with bench.echion.start([], *options, "-p", str(target.pid)) as running:
        target.wait_until_sampled(0)
        latencies = load(listening, REQUESTS)
        running.process.send_signal(signal.SIGINT)
        running.finish().check()
    return latencies


def percentile(latencies: list[float], share: float) -> float:
    return sorted(latencies)[int(share * (len(latencies) - 1))]


def servers(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """Latency of a server's requests while it is sampled, beside the same server's without."""
    repeats = max(LEAST_REPEATS, repeats)
    heading(f"servers: latency of requests, ratio, interleaved, median of {repeats}; {REQUESTS}"
            " requests at a time, of 1 and 3 ms of CPU time, over 4 connections")
    figures = {}
    for python in pythons:
        for kind, server in SERVERS.items():
            folder = find_packages(python, *server.packages)
            if isinstance(folder, str):
                print(f"  {python.name} {kind}: {folder}")
                continue
            with make_socket() as listening:
                with start_target(
                    bench.folder,
                    server.command(python, listening),
                    environment(folder),
                    pass_fds=[listening.fileno()],
                ) as target:
                    load(listening, REQUESTS)
                    seen: list[tuple[str, list[float], list[list[float]]]] = interleave(
                        repeats,
                        lambda: load(listening, REQUESTS),
                        lambda options: load_sampled(bench, target, options, listening),
                    )
                    ask_once(listening, "end")
                    target.finish()
            ratios: dict[str, Ratios] = {one: {"median": [], "p99": []} for one in OPTIONS}
            for one, latencies, beside in seen:
                for what, share in (("median", 0.5), ("p99", 0.99)):
                    plain = median(percentile(other, share) for other in beside)
                    ratios[one][what].append(percentile(latencies, share) / plain)
            name = f"{python.name} {kind}"
            figures[name] = show(name, ratios)
    return figures
