#!/usr/bin/env python3
"""What the sampler costs and what it achieves, in one run, beside what it is compared with.

    scripts/bench                                 all sections, newest interpreter; work, codes: all
    scripts/bench work rate --pythons 3.11,3.13   some sections, some interpreters

Absolute times on a shared or virtual machine say little; read the ratios and the differences
between columns of the same run. docs/benchmarks.md explains every section.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import time

import kernel
from asynchronous import async_work, servers, tasks
from measure import (
    ROOT,
    Bench,
    Interpreter,
    finish_bare_loop,
    heading,
    median,
    per_tick_us,
    write_json,
)

from interpreters import find_free_threaded, find_interpreters
from profilers import profilers
from slowdown import slowdown
from where import where

TICK_US = 1000
FAST_US = 100
SHAPES = (  # threads, depth, the aim for the sampler's own work in µs a tick
    (1, 20, 4.0),
    (1, 500, 35.0),
    (101, 25, 120.0),
)
DEPTH = 20


def work(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """CPU of the sampler per tick, beside a thread that only wakes up."""
    heading(f"CPU per tick in µs, all threads asleep, -i {TICK_US}, no BPF, median of {repeats}")
    print("  read: copying memory; rest: walking and encoding; own: both, by the sampler's own clock;")
    print("  thread: all CPU of its thread; bare: CPU of a loop that only wakes up, run before it")
    print(f"  {'python':14} {'threads':>7} {'depth':>5} {'read':>7} {'rest':>7}"
          f" {'own':>7} {'aim':>5} {'thread':>7} {'bare':>7} {'differ':>7}")
    figures = {}
    for python in pythons:
        for threads, depth, aim in SHAPES:
            rows = []
            for _ in range(repeats):
                ticks, _, cpu_ns = bench.bare_loop(TICK_US, 0.5)
                result = bench.sampled(
                    python, "still", str(threads), str(depth), "1",
                    options=["-i", str(TICK_US), "--engine", "clock"],
                )
                report = result.report
                rows.append(
                    {
                        "read": per_tick_us(result, "sampler_read_ns"),
                        "own": per_tick_us(result, "sampler_tick_ns"),
                        "thread": report["sampler_cpu_ns"] / max(1, report["wakeups"]) / 1000,
                        "bare": cpu_ns / ticks / 1000,
                    }
                )
            row = {key: median(one[key] for one in rows) for key in rows[0]}
            row["rest"] = row["own"] - row["read"]
            figures[f"{python.name} {threads}x{depth}"] = row
            print(f"  {python.name:14} {threads:7} {depth:5} {row['read']:7.2f} {row['rest']:7.2f}"
                  f" {row['own']:7.2f} {aim:5.0f} {row['thread']:7.2f}"
                  f" {row['bare']:7.2f} {row['thread'] - row['bare']:7.2f}", flush=True)
    return figures


def codes(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """What it costs that every code object of a stack is compared at every look."""
    heading(f"own work a tick in µs, one thread asleep, -i {FAST_US}, no BPF, median of {repeats}")
    print(f"  one: {DEPTH} frames of one function; own: {DEPTH} functions")
    print(f"  {'python':14} {'one':>7} {'own':>7} {'ratio':>7}")
    figures = {}
    for python in pythons:
        rows = []
        for _ in range(repeats):
            row = {}
            for name, words in (("one", ()), ("own", ("of-their-own",))):
                result = bench.sampled(
                    python, "still", "1", str(DEPTH), "1", *words,
                    options=["-i", str(FAST_US), "--engine", "clock"],
                )
                row[name] = per_tick_us(result, "sampler_tick_ns")
            rows.append(row)
        row = {key: median(one[key] for one in rows) for key in rows[0]}
        row["ratio"] = median(one["own"] / one["one"] for one in rows)
        figures[python.name] = row
        print(f"  {python.name:14} {row['one']:7.2f} {row['own']:7.2f} {row['ratio']:7.2f}", flush=True)
    return figures


def ticks(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """Share of its deadlines that the sampler keeps, beside a bare loop at the same time."""
    heading(f"ticks achieved, beside a bare loop at the same time, median of {repeats} (aim: 98 %)")
    print(f"  {'python':14} {'target':>7} {'-i':>5} {'sampler':>8} {'bare':>8} {'ratio':>7}")
    figures = {}
    for python in pythons:
        for target in ("still", "busy"):
            for interval_us in (TICK_US, FAST_US):
                pairs = []
                for _ in range(repeats):
                    loop = bench.start_bare_loop(interval_us, 2.0)
                    arguments = ("1", "20", "1.5") if target == "still" else (str(DEPTH), "450")
                    profile = bench.sampled(
                        python, target, *arguments, options=["-i", str(interval_us)]
                    ).profile
                    taken, deadlines, _ = finish_bare_loop(loop)
                    own, missed = profile.figure("ticks"), profile.figure("missed_ticks")
                    pairs.append((own / (own + missed), taken / deadlines))
                own, bare = (median(pair[at] for pair in pairs) for at in (0, 1))
                ratio = median(mine / its for mine, its in pairs)
                figures[f"{python.name} {target} {interval_us}"] = {
                    "sampler": own, "bare": bare, "ratio": ratio
                }
                print(f"  {python.name:14} {target:>7} {interval_us:5} {own:8.1%} {bare:8.1%}"
                      f" {ratio:7.1%}", flush=True)
    return figures


def rate(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """The most samples a second of one busy thread."""
    heading(f"highest rate, one busy thread, depth {DEPTH}, median of {repeats} (aim: 200,000 a second)")
    figures = {}
    for python in pythons:
        rates = []
        for _ in range(repeats):
            # The kernel's ticks come no closer than 10 µs.
            options = ["-i", "1", "--engine", "clock"]
            profile = bench.sampled(python, "busy", str(DEPTH), "300", options=options).profile
            rates.append(profile.figure("samples") / profile.figure("duration") * 1e6)
        figures[python.name] = median(rates)
        print(f"  {python.name:14} {median(rates):10,.0f} samples a second", flush=True)
    return figures


def calls(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """System calls per tick: the sampler's own count of whole runs, and of what a longer one has more
    (without the first look at threads and code), and strace's, which slows the sampler down."""
    heading("system calls per tick (aim: 3 or less)")
    figures = {}
    for python in pythons:
        for target, arguments, longer in (
            ("busy", [str(DEPTH), "500"], [str(DEPTH), "2000"]),
            ("still", ["101", "25", "2"], ["101", "25", "7"]),
        ):
            options = ["-i", str(TICK_US)]
            counts = []
            for chosen in (arguments, longer):
                profile = bench.sampled(python, target, *chosen, options=options).profile
                counts.append((profile.figure("syscalls"), profile.figure("ticks")))
            (few_calls, few_ticks), (all_calls, all_ticks) = counts
            whole = all_calls / all_ticks
            further = (all_calls - few_calls) / (all_ticks - few_ticks)
            command = [python.path, str(ROOT / "tests" / "targets" / f"{target}.py"), *longer]
            with bench.echion.start(command, *options) as running:
                pid = running.wait_ready()
                counted = bench.count_system_calls(find_sampler(pid), 2.0)
                running.finish().check()
            waits = max(
                [counted.get(name, 0) for name in ("clock_nanosleep", "rt_sigtimedwait")] + [1]
            )
            traced = sum(counted.values()) / waits
            figures[f"{python.name} {target}"] = {
                "whole": whole, "further": further, "strace": traced, **counted
            }
            print(f"  {python.name:14} {target:6} {further:5.2f} by its counter, {whole:5.2f} from start"
                  f" to end; {traced:5.2f} by strace over {waits} ticks: {counted}", flush=True)
    return figures


def find_sampler(pid: int) -> str:
    for tid in os.listdir(f"/proc/{pid}/task"):
        if pathlib.Path(f"/proc/{pid}/task/{tid}/comm").read_text().strip() == "echion":
            return tid
    raise SystemExit("the target has no thread named echion")


SECTIONS = {
    "work": work,
    "codes": codes,
    "ticks": ticks,
    "rate": rate,
    "calls": calls,
    "slowdown": slowdown,
    "tasks": tasks,
    "async": async_work,
    "servers": servers,
    "where": where,
    "profilers": profilers,
    **kernel.SECTIONS,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="What the sampler costs and what it achieves.")
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--pythons", default="", help="versions, such as 3.11,3.13,3.14t; default: all"
                        " for `work` and `codes`, the newest for the rest")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")

    found = list(find_interpreters())
    wanted = [name for name in options.pythons.split(",") if name]
    chosen = [
        one
        for one in (*found, *find_free_threaded())
        if any(one.is_called(name) for name in wanted)
    ]
    if not found or (wanted and not chosen):
        parser.error("no such interpreter")

    build_dir = pathlib.Path(os.environ.get("ECHION_BUILD", ROOT / "build")).resolve()
    bench = Bench(build_dir)
    figures = {}
    begin = time.monotonic()
    try:
        for name in options.sections or SECTIONS:
            pythons = chosen or (found if name in ("work", "codes") else found[-1:])
            figures[name] = SECTIONS[name](bench, pythons, options.repeats)
    finally:
        bench.close()
    write_json(build_dir / "bench.json", figures)
    print(f"\n{time.monotonic() - begin:.0f} s; all figures: {build_dir / 'bench.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
