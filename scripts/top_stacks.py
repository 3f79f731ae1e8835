#!/usr/bin/env python3
"""Shows a profile in the terminal: where each thread's time went, by function and by stack.

    scripts/top_stacks.py PROFILE [--functions N] [--stacks N]
"""

from __future__ import annotations

import argparse
import collections
import os
import shutil
import signal
import sys
from typing import Tuple

Stack = Tuple[str, ...]


def read(path: str) -> tuple[dict[str, str], dict[str, collections.Counter[Stack]]]:
    """The metadata, and for each thread the time of each of its stacks."""
    metadata: dict[str, str] = {}
    threads: dict[str, collections.Counter[Stack]] = collections.defaultdict(collections.Counter)
    with open(path, encoding="utf-8") as file:
        for line in file:
            line = line.rstrip("\n")
            if line.startswith("# "):
                key, _, value = line[2:].partition(": ")
                metadata[key] = value.strip()
            elif line:
                stack, _, metric = line.rpartition(" ")
                _, thread, *frames = stack.split(";")
                threads[thread.partition(":")[2]][tuple(frames)] += int(metric)
    return metadata, threads


def short(frame: str) -> str:
    """`/usr/lib/python3/queue.py:get:171` → `get (queue.py:171)`."""
    file, function, line = frame.rsplit(":", 2)
    if not file:
        return function
    return f"{function} ({os.path.basename(file)}:{line})"


def function_of(frame: str) -> str:
    file, function, _ = frame.rsplit(":", 2)
    return f"{function} ({os.path.basename(file)})" if file else function


def show_thread(name: str, stacks: collections.Counter[Stack], options: argparse.Namespace) -> None:
    total = sum(stacks.values())
    own: collections.Counter[str] = collections.Counter()
    with_callees: collections.Counter[str] = collections.Counter()
    for frames, metric in stacks.items():
        functions = [function_of(frame) for frame in frames]
        if functions:
            own[functions[-1]] += metric
        for function in set(functions):
            with_callees[function] += metric

    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    print(f"\nthread {name}: {total / 1e6:.2f} s")
    print("     own    total  function")
    for function, metric in own.most_common(options.functions):
        print(f"  {metric / total:6.1%}  {with_callees[function] / total:6.1%}  {function}")
    print("    time  stack (innermost first)")
    for frames, metric in stacks.most_common(options.stacks):
        text = " < ".join(short(frame) for frame in reversed(frames)) or "(no Python frame)"
        text = text if len(text) <= width - 10 else text[: width - 11] + "…"
        print(f"  {metric / total:6.1%}  {text}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Show a profile's heaviest functions and stacks.")
    parser.add_argument("profile")
    parser.add_argument("--functions", type=int, default=8, help="functions shown a thread")
    parser.add_argument("--stacks", type=int, default=4, help="stacks shown a thread")
    options = parser.parse_args()

    # Names are of any script; the locale's encoding may have no characters for them.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` is no error
    try:
        metadata, threads = read(options.profile)
    except OSError as error:
        print(f"{options.profile}: {error.strerror}", file=sys.stderr)
        return 1
    except ValueError:
        print(f"{options.profile}: no profile", file=sys.stderr)
        return 1
    if not threads:
        print(f"{options.profile}: no samples", file=sys.stderr)
        return 1
    for key in ("mode", "interval", "python", "engine", "samples", "duration"):
        if key in metadata:
            print(f"{key:>9}: {metadata[key]}")
    order = sorted(threads, key=lambda thread: -sum(threads[thread].values()))
    for thread in order:
        show_thread(thread, threads[thread], options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
