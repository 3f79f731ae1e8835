"""One thread that works at a given depth; tells its own CPU time for a fixed amount of work.

    busy.py DEPTH UNITS [threads that sleep at that depth]

A unit is some milliseconds of short calls.
"""

import sys
import threading
import time

from _sampler import Sampler
from _support import argument, clock, ready, report

DEPTH = argument(1, 20, int)
UNITS = argument(2, 100, int)
SLEEPERS = argument(3, 0, int)


def leaf(value):
    return value + 1


def unit():
    value = 0
    for _ in range(40000):
        value = leaf(value)
        value ^= 5
    return value


def work():
    unit()
    ready()
    sampler = Sampler()
    sampler.begin()
    begin_cpu, begin = time.thread_time(), clock()
    for _ in range(UNITS):
        unit()
    report(thread_cpu_s=time.thread_time() - begin_cpu, spent_s=clock() - begin, **sampler.end())


def descend(depth, bottom):
    if depth > 1:
        descend(depth - 1, bottom)
    else:
        bottom()


def main():
    sys.setrecursionlimit(DEPTH + 1000)
    threading.stack_size(max(1 << 18, DEPTH * 2048))
    wake, asleep = threading.Semaphore(0), threading.Semaphore(0)

    def sleep():
        asleep.release()
        wake.acquire()

    for _ in range(SLEEPERS):
        threading.Thread(target=descend, args=(max(1, DEPTH - 4), sleep), daemon=True).start()
    for _ in range(SLEEPERS):
        asleep.acquire()
    descend(max(1, DEPTH - 4), work)
    for _ in range(SLEEPERS):
        wake.release()


if __name__ == "__main__":
    main()
