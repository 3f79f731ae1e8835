"""Many attachments to programs that do without pause what makes attaching hard (hard_to_attach.py).
Each attachment may succeed or be refused for a reason; the program must not notice. After each one
it goes on, is neither stopped nor traced, and has no thread of ours. `ECHION_SOAK_CYCLES` says how
many for each; scripts/soak-attach asks for 300.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import re
import select
import signal
import subprocess
import time
from typing import Iterator

import pytest

from attach_support import Target, target_command
from conftest import LONG
from interpreters import Interpreter, find_interpreters
from runner import TIMEOUT_S
from test_attach_soak import ours_mapped, steady_descriptors, wait_until_left

pytestmark = pytest.mark.usefixtures("needs_root")

CYCLES = int(os.environ.get("ECHION_SOAK_CYCLES", "5"))
SCENES = ("setgroups", "vfork", "exec", "crowd")
EXPOSURE = "0.02"
# For one attachment, with all the time limits that echion has itself (5 s for a safe point, 5 s for
# the library, as much for the end), on a busy machine.
PATIENCE_S = 30
# For the program to show that it goes on.
BEAT_S = 10
STOPPED_OR_TRACED = re.compile(r"^State:\t[tT]|^TracerPid:\t[1-9]", re.M)
# What docs/attaching.md says stays: the library.
LIBRARY = re.compile(r"/memfd:echion-agent-\S+( \(deleted\))?$")


class Awkward(Target):
    """A program whose progress can be seen."""

    def __init__(self, process: subprocess.Popen[bytes]):
        super().__init__(process, process.pid, pathlib.Path(os.devnull))

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def goes_on(self, kinds: bytes = b"mw") -> None:
        """Waits for new beats of each kind; what is in the pipe already is of the past."""
        beats = self.process.stdout.fileno()
        os.set_blocking(beats, False)
        with contextlib.suppress(BlockingIOError):
            while os.read(beats, 1 << 16):
                pass
        missing = set(kinds)
        deadline = time.monotonic() + BEAT_S
        while missing:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([beats], [], [], left)[0]:
                raise AssertionError(f"hangs: no {bytes(missing)!r} for {BEAT_S} s\n{self.describe()}")
            seen = os.read(beats, 1 << 16)
            assert seen, f"has ended with {self.process.wait(TIMEOUT_S)}"
            missing -= set(seen)

    def statuses(self) -> Iterator[tuple[int, str]]:
        for tid in self.threads():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                yield tid, pathlib.Path(f"/proc/{self.pid}/task/{tid}/status").read_text()

    def describe(self) -> str:
        """Where its threads are, for who reads of a fault."""
        lines = []
        for tid, status in self.statuses():
            wanted = re.findall(r"^(?:Name|State|TracerPid|SigBlk|SigPnd|ShdPnd):\t.*", status, re.M)
            call = ""
            with contextlib.suppress(OSError):
                call = pathlib.Path(f"/proc/{self.pid}/task/{tid}/syscall").read_text().split()[0]
            lines.append(f"  {tid} in call {call}: " + ", ".join(wanted).replace("\t", " "))
        return "\n".join(lines[:20])

    def check_left_alone(self) -> None:
        assert self.is_alive(), f"the target has ended with {self.process.returncode}"
        for tid, status in self.statuses():
            assert not STOPPED_OR_TRACED.search(status), f"{tid} was left stopped\n{self.describe()}"


@contextlib.contextmanager
def start_awkward(python: Interpreter, scene: str) -> Iterator[Awkward]:
    command = target_command(python, "hard_to_attach", scene)
    process = subprocess.Popen(
        [command[0], "-I", "-S", *command[1:]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    target = Awkward(process)
    try:
        target.goes_on()
        yield target
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stdin.close()


def attach(program: pathlib.Path, pid: int, profile: pathlib.Path, engine: str) -> str:
    """Attaches once; what came of it: "attached", or why not."""
    command = [program, "-o", profile, "-x", EXPOSURE, "--engine", engine, "-p", str(pid)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _, words = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        _, words = process.communicate()
        raise AssertionError(f"echion did not return within {PATIENCE_S} s\n{words}") from None
    if process.returncode == 0:
        return "attached"
    assert process.returncode == 1 and words.startswith("echion: "), (process.returncode, words)
    # Without what differs each time.
    return re.sub(r"0x[0-9a-f]+|\d+", "N", words.splitlines()[0].removeprefix("echion: "))


@pytest.fixture(
    params=find_interpreters() if LONG else find_interpreters()[-1:], ids=lambda one: one.name
)
def soaked(request) -> Interpreter:
    return request.param


@pytest.mark.parametrize("scene", SCENES)
def test_a_program_goes_on_however_often_it_is_attached_to(
    build_dir, tmp_path, soaked, scene, capsys
):
    outcomes = collections.Counter()
    try:
        with start_awkward(soaked, scene) as target:
            descriptors = steady_descriptors(target)
            for cycle in range(CYCLES):
                engine = "auto" if cycle % 2 == 0 else "clock"
                outcomes[attach(build_dir / "echion", target.pid, tmp_path / "out", engine)] += 1
                target.check_left_alone()
                target.goes_on()
            wait_until_left(target)
            assert steady_descriptors(target) == descriptors
            left = [name for name in ours_mapped(target) if not LIBRARY.match(name)]
            assert not left, f"{left} are left mapped"
            target.process.stdin.close()
            assert target.process.wait(TIMEOUT_S) == 0, "it did not end as it would have"
    finally:
        with capsys.disabled():
            told = "; ".join(f"{count} × {what}" for what, count in outcomes.most_common())
            print(f"\nfigures: {soaked.name}: {scene}: {sum(outcomes.values())} of {CYCLES}: {told}")
    assert outcomes["attached"] or scene == "exec", "none of them succeeded"
