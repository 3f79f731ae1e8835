"""Benchmarks of the kernel's part: what its programs cost, what they save, and whether `-c` is right."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
from typing import Any, Iterator, Sequence

from measure import NANOS_PER_MICRO, Bench, Interpreter, heading, median

from interpreters import find_interpreters
from runner import TARGETS, Echion, Result

DEPTH = 20
STATS = pathlib.Path("/proc/sys/kernel/bpf_stats_enabled")
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def kernel(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """Ping-pong with and without the programs, and each program's own time, without Python."""
    heading("the kernel's programs on their own (aims: ping-pong 1.02 watching another, 1.05 the"
            " target itself)")
    program = bench.build_dir / "tests" / "bench" / "kernel_cost"
    done = subprocess.run([str(program), "20000", "15"], capture_output=True, text=True,
                          timeout=170)
    print("  " + done.stdout.strip().replace("\n", "\n  "), flush=True)
    ratios = re.findall(r"^ *(watching another process|the target itself) .* ratio ([\d.]+)$",
                        done.stdout, re.MULTILINE)
    return {"ratios": {name: float(ratio) for name, ratio in ratios}, "text": done.stdout}


@contextlib.contextmanager
def counting_programs() -> Iterator[None]:
    """The kernel measures all BPF programs meanwhile, which adds some 20 ns to each run."""
    before = STATS.read_text()
    STATS.write_text("1")
    try:
        yield
    finally:
        STATS.write_text(before)


def read_programs(pid: int) -> dict[str, tuple[int, float]]:
    """Runs and mean ns of the programs that this process holds."""
    ids = set()
    for info in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            ids.update(map(int, re.findall(r"^prog_id:\s+(\d+)$", info.read_text(), re.MULTILINE)))
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    tool = shutil.which("bpftool", path=path)
    if tool is None:
        return {}
    listed = json.loads(subprocess.run([tool, "-j", "prog", "show"], capture_output=True,
                                       text=True, timeout=60).stdout)
    return {
        one["name"]: (one["run_cnt"], one["run_time_ns"] / one["run_cnt"])
        for one in listed
        if one["id"] in ids and one.get("run_cnt")
    }


def read_counters(stderr: str) -> dict[str, int]:
    """What `-v` says at the end: the programs' counters."""
    found = re.findall(r"^echion:\s+bpf ([a-z ]+?)\s+(\d+)$", stderr, re.MULTILINE)
    return {name: int(count) for name, count in found}


def snapshots(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """Time of a tick with its snapshot in real interpreters, and how many could not be used."""
    if not STATS.exists() or os.geteuid() != 0:
        print("  skipped: needs root")
        return {}
    heading("a tick with a snapshot of a real interpreter, ns by the kernel's count; what fell back")
    print("  fell back: unknown thread, page fault, full ring, or not usable by the sampler")
    print(f"  {'python':14} {'target':12} {'options':9} {'ns a tick':>9} {'ticks':>8} {'taken':>8}"
          f" {'unknown':>7} {'fault':>6} {'full':>5} {'unused':>6} {'fell back':>9}")
    cases = (
        ("busy", (str(DEPTH), "200"), ("-c", "-i", "100")),
        ("busy", ("100", "200"), ("-c", "-i", "100")),
        ("known_stacks", ("1.5",), ("-c", "-i", "50")),
        ("known_stacks", ("1.5",), ("-i", "50")),
    )
    figures = {}
    for python in pythons:
        for target, arguments, options in cases:
            command = [python.path, str(TARGETS / f"{target}.py"), *arguments]
            with counting_programs(), bench.echion.start(
                command, *options, "-v", "--engine", "bpf"
            ) as running:
                running.wait_ready()
                programs: dict[str, tuple[int, float]] = {}
                while running.process.poll() is None:
                    with contextlib.suppress(OSError, ValueError):
                        programs = read_programs(running.process.pid) or programs
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        running.process.wait(0.3)
                result = running.finish().check()
            counters = read_counters(result.stderr)
            taken = counters.get("snapshots", 0)
            unused = result.profile.figure("snapshots_unused")
            failed = [counters.get(f"snapshot {why}", 0) for why in ("unknown", "fault", "full")]
            ticks = counters.get("ticks", 0)
            share = (sum(failed) + unused) / max(1, ticks)
            mean = programs.get("on_thread_tick", (0, 0.0))[1]
            shown = " ".join(options).replace(" -i ", " ").replace("-i ", "")
            figures[f"{python.name} {target} {' '.join(arguments)} {shown}"] = {
                "programs": programs, "counters": counters, "unused": unused, "fell_back": share
            }
            print(f"  {python.name:14} {target + ' ' + arguments[0]:12.12} {shown:9} {mean:9.0f}"
                  f" {ticks:8} {taken:8} {failed[0]:7} {failed[1]:6} {failed[2]:5} {unused:6}"
                  f" {share:9.2%}", flush=True)
    return figures


def crowd(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """The sampler's CPU per tick when most threads sleep, with the kernel's help and without."""
    heading("CPU of the sampler's thread per tick in µs, one busy thread and idle ones, depth 25,"
            f" -i 1000, median of {repeats}")
    print("  (aims with bpf: with 1,000 idle threads at most 1.5 times that of none; without bpf 20"
          " times as much)")
    print(f"  {'python':14} {'idle':>5} {'bpf':>8} {'clock':>8} {'clock/bpf':>9}")
    found = {}
    for python in pythons:
        rows = {}
        for idle_threads in (0, 1000):
            spent: dict[str, list[float]] = {"bpf": [], "clock": []}
            for _ in range(repeats):
                for engine, values in spent.items():
                    report = bench.sampled(
                        python, "busy", "25", "400", str(idle_threads),
                        options=["-i", "1000", "--engine", engine],
                    ).report
                    # It sleeps once a tick.
                    ticks = max(1, report["wakeups"])
                    values.append(report["sampler_cpu_ns"] / ticks / NANOS_PER_MICRO)
            row = {engine: median(values) for engine, values in spent.items()}
            rows[str(idle_threads)] = row
            print(f"  {python.name:14} {idle_threads:5} {row['bpf']:8.2f} {row['clock']:8.2f}"
                  f" {row['clock'] / row['bpf']:9.2f}", flush=True)
        growth = rows["1000"]["bpf"] / rows["0"]["bpf"]
        print(f"  {python.name:14} with bpf, 1,000 idle threads cost {growth:.2f} times none")
        found[python.name] = {**rows, "growth": growth}
    return found


def idle(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """Wake-ups of the sampler while the target sleeps."""
    heading("wake-ups of the sampler a second on a sleeping target, -c -i 1000 (aim but for clock: 0)")
    figures = {}
    for python in pythons:
        for engine in ("bpf", "perf", "clock"):
            report = bench.sampled(
                python, "still", "11", "25", "3", options=["-c", "-i", "1000", "--engine", engine]
            ).report
            rate = report["wakeups"] / report["wall_s"]
            figures[f"{python.name} {engine}"] = rate
            print(f"  {python.name:14} {engine:6} {rate:8.2f}", flush=True)
    return figures


FIGURE_KINDS = ("busy", "bursts", "duty", "short")


def compare(result: Result) -> dict[str, float]:
    """The profile's CPU time over the kernel's: of the process, of all the threads that read their own
    clocks, and of the worst of these."""
    totals = result.profile.thread_totals()
    own = result.report["threads"]
    seen = {
        name: totals.get(name, 0)
        + totals.get(name.replace(" ", "_"), 0)  # a line without a stack does not end in a number
        + totals.get(f"thread-{one['tid']}", 0)
        for name, one in own.items()
    }
    expected = sum(one["cpu_us"] for one in own.values())
    worst = max(abs(seen[name] / one["cpu_us"] - 1) for name, one in own.items())
    unseen = totals.get("threads not seen", 0)
    return {
        "process": sum(totals.values()) / result.report["rusage_us"] - 1,
        "all": (sum(seen.values()) + unseen) / expected - 1,
        "worst": worst,
        "threads": len(own),
    }


def figures(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """The metric of `-c` against the kernel's figures: of the process, and of each thread."""
    heading("metric of -c -i 1000 less the process's getrusage, and less the threads' own clocks: all"
            " together, and the worst thread")
    print("  (aims: 1 % with bpf, 2 % for short threads; 3 % for the rest. Both are read before the end,"
          " which for a thread of 5 ms is over 1 % of its time.)")
    print(f"  {'python':14} {'by':18} {'kind':8} {'process':>8} {'threads':>7} {'all':>8} {'worst':>8}")
    found: dict[str, Any] = {}
    for python in pythons:
        for engine in ("bpf", "perf", "clock"):
            print_figures(bench.echion, python, TARGETS, f"root, {engine}", engine, (), found)
    system = [one for one in find_interpreters() if one.path.startswith("/usr/")]
    if os.geteuid() != 0 or not system:
        print("  as an ordinary user: skipped, needs root and an interpreter that all may run")
        return found
    with as_nobody(bench) as (echion, targets):
        print_figures(echion, system[0], targets, "ordinary user", "auto", NOBODY, found)
    return found


def print_figures(echion: Echion, python: Interpreter, targets: pathlib.Path, by: str, engine: str,
                  wrap: Sequence[str], found: dict[str, Any]) -> None:
    for kind in FIGURE_KINDS:
        command = [python.path, str(targets / "cpu_figures.py"), kind, "3"]
        options = ["-c", "-i", "1000", "--engine", engine]
        row = compare(echion.run(command, *options, wrap=wrap).check())
        found[f"{python.name} {by} {kind}"] = row
        print(f"  {python.name:14} {by:18} {kind:8} {row['process']:+8.3%} {row['threads']:7.0f}"
              f" {row['all']:+8.3%} {row['worst']:8.3%}", flush=True)


@contextlib.contextmanager
def as_nobody(bench: Bench) -> Iterator[tuple[Echion, pathlib.Path]]:
    """An echion that an ordinary user may run, with targets: copies, in a folder of that user's."""
    before = os.umask(0)  # the FIFO is for both
    try:
        with tempfile.TemporaryDirectory(prefix="echion-nobody-") as name:
            folder = pathlib.Path(name)
            for program in ("echion", "libechion.so"):
                shutil.copy(bench.build_dir / program, folder / program)
            shutil.copytree(TARGETS, folder / "targets")
            for path in (folder, *folder.rglob("*")):
                os.chown(path, 65534, 65534)
            yield Echion(folder / "echion", folder), folder / "targets"
    finally:
        os.umask(before)


SECTIONS = {
    "kernel": kernel,
    "snapshots": snapshots,
    "crowd": crowd,
    "idle": idle,
    "figures": figures,
}
