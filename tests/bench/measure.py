"""How the benchmarks run things: echion on a target, and the bare loop beside it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from typing import Any, Iterable, Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from interpreters import Interpreter  # noqa: E402
from runner import Echion, Result, run_unsampled  # noqa: E402

__all__ = ["Bench", "Interpreter", "median"]

NANOS_PER_MICRO = 1000.0


def heading(text: str) -> None:
    print(f"\n== {text}", flush=True)


def median(values: Iterable[float]) -> float:
    return statistics.median(list(values))


class Bench:
    """One run of the benchmarks: the build under test and a folder of its own."""

    def __init__(self, build_dir: pathlib.Path):
        self.build_dir = build_dir
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="echion-bench-"))
        self.echion = Echion(build_dir / "echion", self.folder)

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def sampled(
        self, python: Interpreter, target: str, *arguments: str, options: Iterable[str], **more: Any
    ) -> Result:
        result = self.echion.run_target(
            python, target, *arguments, options=list(options), **more
        ).check()
        return result

    def unsampled(self, python: Interpreter, target: str, *arguments: str) -> dict[str, Any]:
        return run_unsampled(python, target, *arguments, folder=self.folder)

    def start_bare_loop(
        self, interval_us: int, seconds: float, wrap: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        program = self.build_dir / "tests" / "bench" / "bare_loop"
        return subprocess.Popen(
            [*wrap, str(program), str(interval_us * 1000), str(seconds)],
            stdout=subprocess.PIPE, text=True,
        )

    def bare_loop(self, interval_us: int, seconds: float) -> tuple[int, int, int]:
        return finish_bare_loop(self.start_bare_loop(interval_us, seconds))

    def count_system_calls(self, tid: str, seconds: float) -> dict[str, int]:
        """Calls of one thread by name, as strace counts them. The thread runs slower meanwhile."""
        log = self.folder / "strace"
        subprocess.run(
            ["timeout", "-s", "INT", str(seconds), "strace", "-c", "-p", tid, "-o", str(log)],
            stderr=subprocess.DEVNULL,
            check=False,
        )
        calls = {}
        for line in log.read_text().splitlines():
            # % time, seconds, µs a call, calls, (errors,) name
            if match := re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line):
                if match[2] != "total":
                    calls[match[2]] = int(match[1])
        return calls


def finish_bare_loop(process: subprocess.Popen[str]) -> tuple[int, int, int]:
    """Ticks, deadlines, CPU ns."""
    out, _ = process.communicate(timeout=120)
    ticks, deadlines, cpu_ns = map(int, out.split())
    return ticks, deadlines, cpu_ns


def per_tick_us(result: Result, key: str) -> float:
    profile = result.profile
    return profile.figure(key) / max(1, profile.figure("ticks")) / NANOS_PER_MICRO


def write_json(path: pathlib.Path, figures: Any) -> None:
    path.write_text(json.dumps(figures, indent=1) + os.linesep)
