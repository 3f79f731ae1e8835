"""Threads that all sleep at a given depth, until the standard input is closed.

    crowd.py THREADS DEPTH
"""

import sys
import threading

from _support import argument, ready, report

THREADS = argument(1, 10, int)
DEPTH = argument(2, 20, int)


def descend(depth, bottom):
    if depth > 1:
        descend(depth - 1, bottom)
    else:
        bottom()


def main():
    sys.setrecursionlimit(DEPTH + 1000)
    threading.stack_size(max(1 << 18, DEPTH * 2048))
    asleep = threading.Barrier(THREADS + 1)
    wake = threading.Event()

    def bottom():
        asleep.wait()
        wake.wait()

    threads = [
        threading.Thread(target=descend, args=(DEPTH, bottom), name="crowd-%d" % number)
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    asleep.wait()
    ready()
    sys.stdin.read()
    wake.set()
    for thread in threads:
        thread.join()
    report(threads=THREADS)


if __name__ == "__main__":
    main()
