"""Executes itself while a child that the C library knows nothing of holds on to its descriptors. Then
that child ends, and only then does `late` keep the CPU busy, for so many seconds."""

import ctypes
import os
import sys
import time

from _support import argument, wait_for_sampler


def late(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


if len(sys.argv) == 2:
    wait_for_sampler()
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    child = ctypes.CDLL(None).syscall(57)  # fork, on x86-64
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.execv(sys.executable, [sys.executable, __file__, sys.argv[1], str(writer), str(child)])

wait_for_sampler()
os.close(int(sys.argv[2]))
os.waitpid(int(sys.argv[3]), 0)
late(argument(1, 0.3))
