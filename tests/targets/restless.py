"""Starts and ends threads all the time, forks, and ends in one of the ways of endings.py.

    restless.py WAY [seconds]
"""

import os
import sys
import threading

import endings
from _support import argument, clock, ready, spin, wait_for_sampler

SECONDS = argument(2, 0.3)


def short_life(depth):
    if depth:
        short_life(depth - 1)
    else:
        spin(0.0005)


def restless(end):
    number = 0
    while clock() < end:
        number += 1
        threads = [
            threading.Thread(target=short_life, args=(number % 30,), name="life-%d" % number)
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        if number % 7 == 0:
            pid = os.fork()
            if pid == 0:
                short_life(3)
                os._exit(11)
            endings.expect(pid, 11 << 8)
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    ready()
    endings.SECONDS = SECONDS / 10
    # One more thread stays as it is until the end, busy in the same way.
    threading.Thread(target=restless, args=(clock() + SECONDS,), daemon=True).start()
    restless(clock() + SECONDS)
    # A busy machine may have given the sampler none of that time.
    wait_for_sampler(lambda: restless(clock() + SECONDS / 10))
    endings.WAYS[sys.argv[1]][0]()
