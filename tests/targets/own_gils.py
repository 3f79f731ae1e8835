"""Threads that run at the same time, each in an interpreter with a GIL of its own (3.12 and later).

    own_gils.py [threads] [seconds]
"""

import threading

from _support import argument, ready, report
from interpreted import interpreters

SOURCE = """
import time
def leaf():
    return 1
def inside(end):
    while time.perf_counter() < end:
        for _ in range(100):
            leaf()
inside(time.perf_counter() + {})
"""


def main():
    api = interpreters()
    seconds = argument(2, 1.0)
    numbers = [api.create() for _ in range(int(argument(1, 3)))]
    threads = [
        threading.Thread(
            target=api.run_string, args=(number, SOURCE.format(seconds)), name="of-%d" % number
        )
        for number in numbers
    ]
    ready()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report(numbers=[int(number) for number in numbers])
    for number in numbers:
        api.destroy(number)


main()
