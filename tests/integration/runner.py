"""Runs echion and targets, without a sleep as synchronisation.

A target (tests/targets) talks to its test through two files named in its environment: a FIFO to
which it writes `ready <pid>` when it is where the test wants it, and a JSON report of what it saw
of itself, written at its end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from typing import Any, Iterator, Sequence

from interpreters import Interpreter
from profile_text import Profile

TARGETS = pathlib.Path(__file__).resolve().parents[1] / "targets"
TIMEOUT_S = 120.0
PROFILE_NAMES = {"clock": "nanosleep", "perf": "perf", "bpf": "bpf"}  # of engines, in profiles


@dataclasses.dataclass
class Result:
    """What one run of echion left behind."""

    returncode: int
    stdout: str
    stderr: str
    output: pathlib.Path
    report_path: pathlib.Path

    @property
    def profile(self) -> Profile:
        assert self.output.exists(), f"exit {self.returncode} without a profile\n{self.stderr}"
        return Profile.read(self.output)

    @property
    def report(self) -> dict[str, Any]:
        return json.loads(self.report_path.read_text())

    def check(self) -> Result:
        """Itself, after asserting that everything went well."""
        assert self.returncode == 0, f"exit {self.returncode}\n{self.stdout}\n{self.stderr}"
        return self


class Running:
    """An echion that has been started and not been waited for."""

    def __init__(self, process: subprocess.Popen[str], result: Result, fifo: pathlib.Path):
        self.process = process
        self._result = result
        self._fifo = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self._words = b""

    def wait_for(self, word: str, timeout: float = TIMEOUT_S) -> list[str]:
        """Waits for the target's line that starts with `word`; returns the rest of that line."""
        deadline = time.monotonic() + timeout
        poll = select.poll()
        poll.register(self._fifo, select.POLLIN)
        while True:
            while b"\n" in self._words:
                line, _, self._words = self._words.partition(b"\n")
                first, *rest = line.decode().split()
                if first == word:
                    return rest
            if self.process.poll() is not None and not poll.poll(0):
                out, err = self.process.communicate()
                raise AssertionError(
                    f"ended ({self.process.returncode}) before '{word}'\n{out}\n{err}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(f"no '{word}' from the target within {timeout} s")
            # A FIFO without a writer polls as hung up at once; the short wait keeps that cheap.
            events = poll.poll(100)
            if events and events[0][1] & select.POLLIN:
                self._words += os.read(self._fifo, 65536)
            elif events:
                time.sleep(0.005)

    def wait_ready(self, timeout: float = TIMEOUT_S) -> int:
        """Waits until the target is where the test wants it; returns its process id."""
        return int(self.wait_for("ready", timeout)[0])

    def finish(self, timeout: float = TIMEOUT_S) -> Result:
        """Waits for the end. A run over its time is killed and fails the test."""
        try:
            out, err = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"echion did not end within {timeout} s\n{out}\n{err}") from None
        self._result.returncode = self.process.returncode
        self._result.stdout, self._result.stderr = out, err
        return self._result

    def kill(self) -> None:
        """Kills echion and all that it started (they share a session of their own)."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        self.kill()
        if self.process.poll() is None:
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        os.close(self._fifo)


class Echion:
    """The program under test, and a folder for what it writes."""

    def __init__(self, program: pathlib.Path, folder: pathlib.Path):
        self.program = program
        self.folder = folder
        self._runs = 0

    @contextlib.contextmanager
    def start(
        self,
        command: Sequence[str | os.PathLike[str]],
        *options: str,
        output: str | os.PathLike[str] | None = None,
        env: dict[str, str] | None = None,
        wrap: Sequence[str] = (),
        **popen: Any,
    ) -> Iterator[Running]:
        """Starts `wrap… echion -o OUTPUT options… command…` in a session of its own."""
        self._runs += 1
        fifo = self.folder / f"words-{self._runs}"
        report = self.folder / f"report-{self._runs}.json"
        target = pathlib.Path(output) if output else self.folder / f"profile-{self._runs}.austin"
        os.mkfifo(fifo)
        environment = dict(os.environ, ECHION_TEST_FIFO=str(fifo), ECHION_TEST_REPORT=str(report))
        environment.update(env or {})
        arguments = [*wrap, str(self.program), "-o", str(target), *options, *map(str, command)]
        process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=popen.pop("stdin", subprocess.DEVNULL),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
            **popen,
        )
        running = Running(process, Result(0, "", "", target, report), fifo)
        try:
            yield running
        finally:
            running.close()

    def run(
        self,
        command: Sequence[str | os.PathLike[str]],
        *options: str,
        timeout: float = TIMEOUT_S,
        **keywords: Any,
    ) -> Result:
        """Runs to the end."""
        with self.start(command, *options, **keywords) as running:
            return running.finish(timeout)

    def run_target(
        self,
        python: Interpreter,
        target: str,
        *arguments: str,
        options: Sequence[str] = (),
        **keywords: Any,
    ) -> Result:
        """Runs `echion options… python tests/targets/TARGET.py arguments…` to the end."""
        return self.run(
            [python.path, str(TARGETS / f"{target}.py"), *arguments], *options, **keywords
        )


@functools.lru_cache(maxsize=None)
def why_not(engine: str, program: pathlib.Path) -> str:
    """Empty where this engine may make the ticks; otherwise what echion says about it."""
    command = [program, "-c", "--engine", engine, "-o", os.devnull, sys.executable, "-c", "pass"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=60)
    is_refused = tried.returncode != 0 or "cannot be had" in tried.stderr
    return (tried.stderr.strip() or f"exit status {tried.returncode}") if is_refused else ""


def run_unsampled(
    python: Interpreter, target: str, *arguments: str, folder: pathlib.Path
) -> dict[str, Any]:
    """Runs a target by itself, and returns its report."""
    report = folder / f"unsampled-{target}.json"
    environment = dict(os.environ, ECHION_TEST_REPORT=str(report))
    environment.pop("ECHION_TEST_FIFO", None)
    subprocess.run(
        [python.path, str(TARGETS / f"{target}.py"), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
        check=True,
        start_new_session=True,  # as a sampled one: schedulers share CPUs out by session
    )
    return json.loads(report.read_text())
