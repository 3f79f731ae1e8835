"""Targets that run by themselves, and echion attached to them."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import time
from typing import Any, Iterator, Sequence

from interpreters import Interpreter
from runner import TARGETS, TIMEOUT_S


class Target:
    """A target that has been started, and is where the test wants it."""

    def __init__(self, process: subprocess.Popen[bytes], pid: int, report: pathlib.Path):
        self.process = process
        self.pid = pid  # of the interpreter, which may be a descendant of `process`
        self._report = report

    def finish(self, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Closes its standard input, waits for its end, and returns its report."""
        if self.process.stdin:
            self.process.stdin.close()
        assert self.process.wait(timeout) == 0, f"the target ended with {self.process.returncode}"
        return json.loads(self._report.read_text())

    def is_alive(self) -> bool:
        return self.process.poll() is None

    # What attaching must leave as it was.

    def threads(self) -> set[int]:
        return {int(one) for one in os.listdir(f"/proc/{self.pid}/task")}

    def descriptors(self) -> dict[str, str]:
        folder = f"/proc/{self.pid}/fd"
        found = {}
        for one in os.listdir(folder):
            with contextlib.suppress(FileNotFoundError):
                found[one] = os.readlink(f"{folder}/{one}")
        return found

    def mapped_bytes(self) -> int:
        """What is mapped and can be used; address space that is only reserved does not count."""
        total = 0
        for line in pathlib.Path(f"/proc/{self.pid}/maps").read_text().splitlines():
            start, end, access = re.match(r"([0-9a-f]+)-([0-9a-f]+) (....)", line).groups()
            if access[:3] != "---":
                total += int(end, 16) - int(start, 16)
        return total

    def wait_for_call(self, number: int | None = None) -> None:
        """Waits until its main thread is blocked in a system call (of that number)."""
        path = pathlib.Path(f"/proc/{self.pid}/syscall")
        while (word := path.read_text().split()[0]) == "running" or (
            number is not None and int(word) != number
        ):
            time.sleep(0.001)

    def wait_until_sampled(self, ticks: int = 20) -> None:
        """Waits until an agent's thread has woken up that often since the agent took SIGQUIT, which
        is right before its first sample. They wake up before, too, to read files from the disk."""
        deadline = time.monotonic() + TIMEOUT_S
        before: dict[int, int] = {}
        while time.monotonic() < deadline:
            assert self.is_alive(), f"the target ended with {self.process.returncode}"
            if not (catches(self.pid, signal.SIGQUIT) or ignores(self.pid, signal.SIGQUIT)):
                before.clear()
            elif any(
                waits - before.setdefault(tid, waits) >= ticks
                for tid, waits in self._agents_waits().items()
            ):
                return
            time.sleep(0.005)
        raise AssertionError("no agent samples")

    def _agents_waits(self) -> dict[int, int]:
        """How often each of an agent's threads has waited."""
        found = {}
        for tid in self.threads():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                status = pathlib.Path(f"/proc/{self.pid}/task/{tid}/status").read_text()
                if status.startswith("Name:\techion\n"):
                    waits = re.search(r"^voluntary_ctxt_switches:\t(\d+)", status, re.M)
                    found[tid] = int(waits.group(1))
        return found

    def wait_for_threads(self, wanted: set[int], timeout: float = TIMEOUT_S) -> None:
        deadline = time.monotonic() + timeout
        while (now := self.threads()) != wanted:
            assert time.monotonic() < deadline, f"threads {now - wanted} are left"
            time.sleep(0.005)


@contextlib.contextmanager
def start_target(
    folder: pathlib.Path,
    command: Sequence[str],
    env: dict[str, str] | None = None,
    seen_at: pathlib.Path | None = None,
    **popen: Any,
) -> Iterator[Target]:
    """Runs a command whose target says `ready <pid>`, in a session of its own. `seen_at`: where the
    target finds `folder`, if it has another root."""
    folder.chmod(0o777)
    name = f"{time.monotonic_ns()}"
    fifo, report = folder / f"target-{name}", folder / f"target-{name}.json"
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    words = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    place = seen_at or folder
    environment = dict(
        os.environ,
        ECHION_TEST_FIFO=str(place / fifo.name),
        ECHION_TEST_REPORT=str(place / report.name),
    )
    environment.update(env or {})
    process = subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdin=popen.pop("stdin", subprocess.PIPE),
        start_new_session=True,
        **popen,
    )
    try:
        yield Target(process, _wait_ready(process, words), report)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()
        os.close(words)


def _wait_ready(process: subprocess.Popen[bytes], words: int) -> int:
    deadline = time.monotonic() + TIMEOUT_S
    text = b""
    while b"\n" not in text:
        assert process.poll() is None, f"the target ended with {process.returncode}"
        assert time.monotonic() < deadline, "the target is not ready in time"
        if select.select([words], [], [], 0.05)[0]:
            with contextlib.suppress(BlockingIOError):
                part = os.read(words, 1000)
                text += part
                if not part:
                    time.sleep(0.005)  # nobody has opened the FIFO yet
    return int(text.split()[1])


def target_command(python: Interpreter, target: str, *arguments: str) -> list[str]:
    return [python.path, str(TARGETS / f"{target}.py"), *arguments]


def catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for the signal."""
    return _has_signal(pid, "SigCgt", number)


def ignores(pid: int, number: int) -> bool:
    return _has_signal(pid, "SigIgn", number)


def _has_signal(pid: int, mask: str, number: int) -> bool:
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.search(rf"^{mask}:\t(\w+)", status, re.M)[1], 16) >> (number - 1) & 1)


def wait_until_gone(pid: int, timeout: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout
    while pathlib.Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} does not end"
        time.sleep(0.005)
