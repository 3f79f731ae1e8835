"""A function that a thread made in C calls again and again, with a new thread state each time.

    called_back.py LIBRARY     c_thread.c, compiled
"""

import ctypes
import sys
import time

from _support import ready, report

CALLS = 10
PAUSE_US = 60_000
BUSY_S = 0.01
spent = []


def called_back():
    begin = time.perf_counter()
    end = time.thread_time() + BUSY_S
    while time.thread_time() < end:
        pass
    spent.append(time.perf_counter() - begin)


def main():
    library = ctypes.CDLL(sys.argv[1])
    ready()
    begin = time.perf_counter()
    assert library.call_from_c_thread(ctypes.CFUNCTYPE(None)(called_back), CALLS, PAUSE_US) == 0
    report(called_back_s=sum(spent), whole_s=time.perf_counter() - begin)


if __name__ == "__main__":
    main()
