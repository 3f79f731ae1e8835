"""Keeps a thread of another process from running, for exactly as long as a test likes: what a machine
without a CPU to spare does to it."""

from __future__ import annotations

import ctypes
import os
import pathlib
import re
import time

from runner import TIMEOUT_S

# include/uapi/linux/ptrace.h, wait.h
PTRACE_DETACH = 17
PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, tid: int) -> None:
    if _libc.ptrace(request, tid, None, None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def find_thread(pid: int, name: str) -> int:
    """The thread of that name, as soon as there is one."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            if (task / "comm").read_text().strip() == name:
                return int(task.name)
        time.sleep(0.001)
    raise AssertionError(f"process {pid} has no thread {name}")


class HeldThread:
    """Stands still until it is let go, or its process ends."""

    def __init__(self, tid: int):
        self.tid = tid
        _ptrace(PTRACE_SEIZE, tid)
        _ptrace(PTRACE_INTERRUPT, tid)
        os.waitpid(tid, WALL)

    def let_go(self) -> None:
        _ptrace(PTRACE_DETACH, self.tid)

    def let_look(self) -> None:
        """The same, and waits until it has gone to sleep a few times."""
        path = pathlib.Path(f"/proc/{self.tid}/status")

        def waits() -> int:
            return int(re.search(r"^voluntary_ctxt_switches:\t(\d+)", path.read_text(), re.M)[1])

        before = waits()
        self.let_go()
        while waits() < before + 3:
            time.sleep(0.001)

    def wait_for_end(self) -> None:
        """With its process. Without it the process could not end."""
        while os.WIFSTOPPED(os.waitpid(self.tid, WALL)[1]):
            pass
