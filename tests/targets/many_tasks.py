"""Tasks that are suspended, beside one that wakes up every half a millisecond.

    many_tasks.py COUNT CHANGING [seconds]

CHANGING of the tasks wake up every hundredth of a second, the others never.
"""

import asyncio

from _support import argument, clock, ready, report

COUNT = int(argument(1, 100))
CHANGING = int(argument(2, 0))
SECONDS = float(argument(3, 1.0))


async def inner(seconds):
    await asyncio.sleep(seconds)


async def stays():
    await inner(1000)


async def changes():
    while True:
        await inner(0.01)


async def main():
    tasks = [asyncio.ensure_future(changes() if i < CHANGING else stays()) for i in range(COUNT)]
    await asyncio.sleep(0.1)  # they have all come to where they wait
    ready()
    begin = clock()
    while clock() < begin + SECONDS:
        await asyncio.sleep(0.0005)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    report(waited_s=clock() - begin)


if __name__ == "__main__":
    asyncio.run(main())
