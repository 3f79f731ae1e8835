"""One thread that does the same piece of work over and over, and times each one.

    slices.py DEPTH

Ends when its standard input does, and leaves for each slice: when it began (CLOCK_MONOTONIC),
the thread's CPU time and the wall time that it took, all in seconds.
"""

import select
import sys
import time

from _support import argument, ready, report
from busy import descend, unit

# Between two looks whether the end has come.
SLICES = 50


def work():
    slices = []
    for _ in range(SLICES):
        unit()
    ready()
    while not select.select([sys.stdin], [], [], 0)[0]:
        for _ in range(SLICES):
            begin_cpu, begin = time.thread_time(), time.monotonic()
            unit()
            slices.append((begin, time.thread_time() - begin_cpu, time.monotonic() - begin))
    report(slices=slices)


descend(max(1, argument(1, 20, int) - 4), work)
