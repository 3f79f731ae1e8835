"""Threads that begin and run code of an interpreter of their own at once, and end soon (3.12 and later).

    begins_inside.py [rounds]

Those of one round have the places and numbers of those of the round before.
"""

import threading

from _support import argument, ready, report
from interpreted import interpreters

THREADS = 4
SOURCE = """
import time
def leaf():
    return 1
def inside(end):
    while time.perf_counter() < end:
        for _ in range(100):
            leaf()
inside(time.perf_counter() + 0.02)
"""


def main():
    api = interpreters()
    numbers = [api.create() for _ in range(THREADS)]
    ready()
    for _ in range(int(argument(1, 40))):
        threads = [
            threading.Thread(target=api.run_string, args=(number, SOURCE), name="of-%d" % number)
            for number in numbers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report(numbers=[int(number) for number in numbers])


main()
