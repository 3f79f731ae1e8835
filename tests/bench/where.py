"""How long `echion -w` takes, the whole command, beside commands that do less."""

from __future__ import annotations

import pathlib
import subprocess
import time

from measure import Bench, Interpreter, median

from whereabouts import start_target

THREADS = (10, 100)
AIM_MS = {10: 15.0}
RUNS = 15


def run_ms(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return (time.perf_counter() - begin) * 1000


def where(bench: Bench, pythons: list[Interpreter], repeats: int) -> dict:
    """Interleaved, so that the machine's moods fall on all alike."""
    print(f"\n== Whole command in ms, median of {RUNS * repeats} (least)", flush=True)
    print("  start: echion --version, which only starts and ends; true: /bin/true")
    figures = {}
    program = str(bench.build_dir / "echion")
    for python in pythons:
        for scene, count in [*(("many", count) for count in THREADS), ("busy", 1)]:
            with start_target(python, pathlib.Path(bench.folder), scene, str(count)) as target:
                pid = target.wait_ready()
                times: dict[str, list[float]] = {"where": [], "start": [], "true": []}
                for _ in range(RUNS * repeats):
                    times["where"].append(run_ms([program, "-w", str(pid)]))
                    times["start"].append(run_ms([program, "--version"]))
                    times["true"].append(run_ms(["/bin/true"]))
            row = {kind: {"median": median(all_ms), "least": min(all_ms)}
                   for kind, all_ms in times.items()}
            figures[f"{python.name} {scene} {count}"] = row
            aim = f" (aim: {AIM_MS[count]:.0f})" if count in AIM_MS else ""
            shown = "  ".join(
                f"{kind} {one['median']:6.1f} ({one['least']:.1f})" for kind, one in row.items()
            )
            print(f"  {python.name:14} {scene:5} {count:4} threads  {shown}{aim}", flush=True)
    return figures
