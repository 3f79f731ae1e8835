"""Threads that all sleep at a given depth; tells what the sampler thread uses meanwhile.

    still.py THREADS DEPTH [seconds] [of-their-own]

With the last word each frame's function has a code object of its own; else it is one that calls itself. While every thread sleeps, the CPU time of the process is the sampler's alone.
"""

import sys
import threading
import time

from _support import argument, ready, report
from _sampler import Sampler

THREADS = argument(1, 1, int)
DEPTH = argument(2, 20, int)
SECONDS = argument(3, 2.0)
OF_THEIR_OWN = argument(4, "", str) == "of-their-own"


def descend(depth, bottom):
    if depth > 1:
        descend(depth - 1, bottom)
    else:
        bottom()


def make_functions(count):
    """A function that goes down through as many others, as descend() does through itself."""
    source = "def descend_1(bottom): bottom()\n" + "".join(
        f"def descend_{depth}(bottom): descend_{depth - 1}(bottom)\n" for depth in range(2, count + 1)
    )
    functions = {}
    exec(compile(source, "functions.py", "exec"), functions)
    return lambda depth, bottom: functions[f"descend_{depth}"](bottom)


def measure(started, wake):
    for one in started:
        one.acquire()
    time.sleep(0.3)  # the sampler's caches fill; not a synchronisation
    ready()
    sampler = Sampler()
    sampler.begin()
    time.sleep(SECONDS)
    report(**sampler.end())
    for _ in range(THREADS - 1):
        wake.release()


def main():
    sys.setrecursionlimit(DEPTH + 1000)
    threading.stack_size(max(1 << 18, DEPTH * 2048))
    go_down = make_functions(DEPTH) if OF_THEIR_OWN else descend
    wake = threading.Semaphore(0)
    started = []
    for number in range(THREADS - 1):
        lock = threading.Lock()
        lock.acquire()
        started.append(lock)

        def bottom(lock=lock):
            lock.release()
            wake.acquire()

        threading.Thread(target=go_down, args=(DEPTH - 4, bottom), daemon=True).start()
    go_down(DEPTH - 3, lambda: measure(started, wake))


if __name__ == "__main__":
    main()
