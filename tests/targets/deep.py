"""A stack of a given depth, busy at its bottom.

    deep.py DEPTH [seconds]

Up to 3.10 each call of a Python function takes C stack too: the work is done in a thread with
enough of it.
"""

import sys
import threading
import time

from _support import argument, ready, report, spin

DEPTH = argument(1, 100000, int)
SECONDS = argument(2, 1.0)


cpu_s = []


def bottom():
    ready()
    begin = time.thread_time()
    spin(SECONDS)
    cpu_s.append(time.thread_time() - begin)


def descend(depth):
    if depth > 1:
        descend(depth - 1)
    else:
        bottom()


def main():
    sys.setrecursionlimit(DEPTH + 1000)
    threading.stack_size(min(1 << 30, max(1 << 20, DEPTH * 2048)))
    thread = threading.Thread(target=descend, args=(DEPTH,), name="deep")
    thread.start()
    thread.join()
    report(depth=DEPTH, seconds=SECONDS, cpu_s=cpu_s[0])


if __name__ == "__main__":
    main()
