"""Starts targets without echion, and reads what where mode says of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import time
from typing import Any, Callable, Iterator, Sequence

import pytest

from interpreters import Interpreter
from runner import TARGETS, TIMEOUT_S, Result, Running

_THREAD = re.compile(r"^    🧵 (?P<name>.*): (?P<details>.*)$")
_FRAME = re.compile(r"^        (?P<function>.*) \((?P<file>.*):(?P<line>\d+|\?)\)$")


@dataclasses.dataclass
class Thread:
    name: str
    details: list[str]
    frames: list[tuple[str, str, int]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def functions(self) -> list[str]:
        """Without what is in front of the last dot: versions differ in qualified names."""
        return [function.rpartition(".")[2] for function, _, _ in self.frames]

    @property
    def native_id(self) -> int:
        return next(int(d.split()[1]) for d in self.details if d.startswith("thread "))


def parse_report(text: str) -> list[Thread]:
    """The threads of the (last) report in a text."""
    threads: list[Thread] = []
    for line in text.splitlines():
        if line.startswith("Process "):
            threads = []
        elif match := _THREAD.match(line):
            threads.append(Thread(match["name"], match["details"].split(", ")))
        elif match := _FRAME.match(line):
            place = int(match["line"]) if match["line"] != "?" else 0
            threads[-1].frames.append((match["function"], match["file"], place))
        elif line.startswith("        ("):
            threads[-1].notes.append(line.strip())
    return threads


@contextlib.contextmanager
def start_target(
    python: Interpreter,
    folder: pathlib.Path,
    scene: str,
    *arguments: str,
    wrap: Sequence[str] = (),
    env: dict[str, str] | None = None,
    **popen: Any,
) -> Iterator[Running]:
    """Runs tests/targets/whereabouts.py SCENE, by itself, until it is ready."""
    fifo = folder / f"words-{scene}-{time.monotonic_ns()}"
    os.mkfifo(fifo)
    os.chmod(fifo, 0o666)
    environment = dict(os.environ, ECHION_TEST_FIFO=str(fifo), PYTHONDONTWRITEBYTECODE="1")
    environment.update(env or {})
    process = subprocess.Popen(
        [*wrap, python.path, str(TARGETS / "whereabouts.py"), scene, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        **popen,
    )
    running = Running(process, Result(0, "", "", folder, folder), fifo)
    try:
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGCONT)
        running.close()


def wait_until(holds: Callable[[], Any], what: str, timeout: float = TIMEOUT_S) -> Any:
    """Asks until the answer is true, and returns it."""
    deadline = time.monotonic() + timeout
    while not (answer := holds()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)
    return answer


@dataclasses.dataclass(frozen=True)
class Counts:
    """What the scheduler counts of a thread (/proc/PID/task/TID/schedstat)."""

    run_ns: int
    wait_ns: int
    slices: int

    @classmethod
    def read(cls, pid: int, tid: int) -> Counts:
        return cls(*map(int, pathlib.Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split()))


def without_counts(pid: int, folder: pathlib.Path) -> list[str]:
    """In front of a command: it finds that the kernel counts nothing of the process's first thread, as
    it is without CONFIG_SCHED_INFO. Needs root, to put a file over one below /proc."""
    if os.geteuid() != 0:
        pytest.skip("needs root: to put a file over one below /proc")
    zeros = folder / "zeros"
    zeros.write_text("0 0 0\n")
    hide = f'mount --bind {zeros} /proc/{pid}/task/{pid}/schedstat && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", hide, "sh"]


# The threads of tests/targets/whereabouts.py's scene `scheduled` that compute.
COMPUTING = ("first", "second", "last", "free")


class Where:
    """Runs `echion -w`."""

    def __init__(self, program: pathlib.Path):
        self.program = program

    def run(
        self, pid: int, *options: str, wrap: Sequence[str] = (), **keywords: Any
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*wrap, str(self.program), *options, "-w", str(pid)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            **keywords,
        )

    def threads(self, pid: int, *options: str, **keywords: Any) -> dict[str, Thread]:
        """The threads by their names, in order."""
        done = self.run(pid, *options, **keywords)
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
        return {thread.name: thread for thread in parse_report(done.stderr)}

    def threads_when(
        self, pid: int, holds: Callable[[dict[str, Thread]], bool], what: str
    ) -> dict[str, Thread]:
        """The threads as soon as `holds` is true of them."""

        def look() -> dict[str, Thread] | None:
            found = self.threads(pid)
            return found if holds(found) else None

        return wait_until(look, what)

    def computing(self, pid: int) -> dict[str, int]:
        """The ids of the threads of the scene `scheduled`, as soon as all are where they stay."""

        def are_there(found: dict[str, Thread]) -> bool:
            return "sleeping" in found["MainThread"].details and all(
                name in found and found[name].functions[-1] == "compute" for name in COMPUTING
            )

        found = self.threads_when(pid, are_there, "all threads compute")
        return {name: thread.native_id for name, thread in found.items()}

    def json(self, pid: int, *options: str, **keywords: Any) -> dict[str, Any]:
        done = self.run(pid, "--json", *options, **keywords)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return json.loads(done.stdout)
