"""Tasks that begin, wait for each other, are cancelled and end all the time, and compute in between.

    task_churn.py [seconds] [uvloop]

Each has a name KIND/NUMBER, computes in functions of that kind only, and is waited for by tasks of
the kinds that KINDS says, or by none. So which stacks are possible is known.
"""

import asyncio
import itertools
import random

from _loops import run
from _support import argument, clock, ready, report

SECONDS = argument(1, 3.0)
AT_ONCE = 40
NUMBERS = itertools.count()
computed = 0


def make(kind, coroutine):
    task = asyncio.ensure_future(coroutine)
    task.set_name("%s/%d" % (kind, next(NUMBERS)))
    return task


def compute_leaf():
    global computed
    computed += 1
    return sum(range(random.randrange(200)))


def compute_middle():
    return sum(range(random.randrange(200)))


def compute_root():
    return sum(range(random.randrange(200)))


async def leaf_inner():
    compute_leaf()
    await asyncio.sleep(0)
    compute_leaf()


async def leaf():
    compute_leaf()
    await leaf_inner()
    await asyncio.sleep(random.random() / 1000)
    compute_leaf()


async def middle():
    compute_middle()
    first = make("leaf", leaf())
    second = make("leaf", leaf())
    await asyncio.gather(first, asyncio.shield(second))
    compute_middle()


async def root():
    compute_root()
    tasks = [make("middle", middle()) for _ in range(2)]
    compute_root()
    await asyncio.wait(tasks)
    compute_root()
    try:
        await asyncio.wait_for(make("middle", middle()), random.random() / 500)
    except asyncio.TimeoutError:
        pass
    compute_root()


async def main():
    asyncio.current_task().set_name("main")
    ready()
    end = clock() + SECONDS
    roots = set()
    while clock() < end:
        while len(roots) < AT_ONCE:
            roots.add(make("root", root()))
        if random.random() < 0.2:
            random.choice(list(roots)).cancel()
        _, roots = await asyncio.wait(roots, return_when=asyncio.FIRST_COMPLETED)
    for task in roots:
        task.cancel()
    await asyncio.gather(*roots, return_exceptions=True)
    report(computed=computed)


if __name__ == "__main__":
    run(main())
