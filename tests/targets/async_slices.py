"""The same as slices.py, with tasks or greenlets for work.

    async_slices.py tasks [uvloop]    tasks are created and gathered
    async_slices.py greenlets         two greenlets switch to each other
    async_slices.py gevent            greenlets are spawned and joined

Ends when its standard input does, and leaves for each slice: when it began (CLOCK_MONOTONIC),
the thread's CPU time and the wall time that it took, all in seconds.
"""

import asyncio
import select
import sys
import time

from _loops import run
from _support import ready, report

TASKS = 100
SWITCHES = 5000
# Between two looks whether the end has come.
SLICES = 20

slices = []


def is_over():
    return bool(select.select([sys.stdin], [], [], 0)[0])


class Slice:
    def __enter__(self):
        self._cpu, self._begin = time.thread_time(), time.monotonic()

    def __exit__(self, *_):
        cpu, end = time.thread_time() - self._cpu, time.monotonic()
        slices.append((self._begin, cpu, end - self._begin))


async def leaf():
    await asyncio.sleep(0)


async def tasks():
    await asyncio.gather(*[leaf() for _ in range(TASKS)])
    ready()
    while not is_over():
        for _ in range(SLICES):
            with Slice():
                await asyncio.gather(*[leaf() for _ in range(TASKS)])


def greenlets():
    import greenlet

    def other():
        while True:
            main.switch()

    main = greenlet.getcurrent()
    switch = greenlet.greenlet(other).switch
    switch()
    ready()
    while not is_over():
        for _ in range(SLICES):
            with Slice():
                for _ in range(SWITCHES):
                    switch()


def spawned():
    import gevent

    def leaf():
        gevent.sleep(0)

    def spawn():
        gevent.joinall([gevent.spawn(leaf) for _ in range(TASKS)])

    spawn()
    ready()
    while not is_over():
        for _ in range(SLICES):
            with Slice():
                spawn()


if __name__ == "__main__":
    if sys.argv[1] == "tasks":
        run(tasks())
    else:
        {"greenlets": greenlets, "gevent": spawned}[sys.argv[1]]()
    report(slices=slices)
