"""Threads that run sub-interpreters in any order, and end soon: each has a name and a function of its own.

    one_after_another.py [rounds]

They have the places and numbers of those before, and an interpreter is run by another one each time.
The thread called of-N runs inside_N.
"""

import random
import threading

from _support import argument, ready
from interpreted import interpreters

INTERPRETERS = 3
SOURCE = """
import time
def inside_{0}(end):
    while time.perf_counter() < end:
        pass
inside_{0}(time.perf_counter() + {1})
"""


def main():
    api = interpreters()
    numbers = [api.create() for _ in range(INTERPRETERS)]
    order = random.Random(1)
    ready()
    for first in range(0, INTERPRETERS * int(argument(1, 60)), INTERPRETERS):
        threads = []
        for place in order.sample(range(INTERPRETERS), INTERPRETERS):
            source = SOURCE.format(first + place, order.choice([0.003, 0.008, 0.02]))
            threads.append(
                threading.Thread(
                    target=api.run_string,
                    args=(numbers[place], source),
                    name="of-%d" % (first + place),
                )
            )
            threads[-1].start()
        for thread in threads:
            thread.join()


main()
