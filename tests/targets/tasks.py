"""Tasks that wait for each other in every way that asyncio has, or run.

    tasks.py CONSTRUCT,... [uvloop] [late] [ends]

Each construct has a task CONSTRUCT/root, which waits through the construct for CONSTRUCT/leaf, say,
which waits for an event. `late`: asyncio is imported when a sampler has had the time to come.
`ends`: the program ends by itself some seconds after it is ready. Says that it is ready when all of them
wait, or, for those that run, from within.
"""

import contextvars
import os
import sys
import time

from _support import ready

if "late" in sys.argv:
    time.sleep(0.2)

import asyncio  # noqa: E402

from _loops import run  # noqa: E402

EVENT = None
CONSTRUCT = contextvars.ContextVar("CONSTRUCT")


def name(task, given):
    task.set_name("%s/%s" % (CONSTRUCT.get(), given))
    return task


async def innermost():
    await EVENT.wait()


async def leaf():
    await innermost()


def make_leaf(given="leaf"):
    return name(asyncio.ensure_future(leaf()), given)


async def awaited():
    await make_leaf()


async def gathered():
    await asyncio.gather(make_leaf("leaf-1"), make_leaf("leaf-2"))


async def gathered_in_gather():
    await asyncio.gather(asyncio.gather(make_leaf("leaf-1")), make_leaf("leaf-2"))


async def waited():
    await asyncio.wait([make_leaf("leaf-1"), make_leaf("leaf-2")])


async def waited_for():
    await asyncio.wait_for(make_leaf(), 1000)


async def timed():
    async with asyncio.timeout(1000):
        await make_leaf()


async def shielded():
    await asyncio.shield(make_leaf())


async def shielded_and_waited_for():
    await asyncio.wait_for(asyncio.shield(make_leaf()), 1000)


async def completed():
    for future in asyncio.as_completed([make_leaf("leaf-1"), make_leaf("leaf-2")]):
        await future


async def completed_in_time():
    for future in asyncio.as_completed([make_leaf("leaf-1"), make_leaf("leaf-2")], timeout=1000):
        await future


async def grouped():
    async with asyncio.TaskGroup() as group:
        name(group.create_task(leaf()), "leaf-1")
        name(group.create_task(leaf()), "leaf-2")


async def grouped_but_busy():
    async with asyncio.TaskGroup() as group:
        name(group.create_task(leaf()), "leaf")
        await innermost()


async def middle():
    await make_leaf()


async def deep():
    await asyncio.gather(name(asyncio.ensure_future(middle()), "middle"))


async def shared():
    task = make_leaf()
    second = asyncio.ensure_future(asyncio.wait([task]))
    name(second, "second")
    await asyncio.gather(task)


async def fanned():
    task = make_leaf()

    async def waits():
        await task

    for index in range(300):
        name(asyncio.ensure_future(waits()), "waits-%d" % index)
    await task


async def slept():
    await asyncio.sleep(1000)


async def queued():
    await asyncio.Queue().get()


async def locked():
    lock = asyncio.Lock()
    await lock.acquire()
    async with lock:
        pass


async def conditioned():
    condition = asyncio.Condition()
    async with condition:
        await condition.wait()


async def executed():
    await asyncio.get_running_loop().run_in_executor(None, time.sleep, 1000)


async def read_stream():
    kept = []
    server = await asyncio.start_server(lambda *both: kept.append(both), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await reader.readline()
    writer.close()


async def ticker():
    yield 1
    await innermost()
    yield 2


async def iterated():
    async for _ in ticker():
        pass


async def sent():
    generator = ticker()
    await generator.asend(None)
    await generator.asend(None)


async def thrown():
    async def catcher():
        try:
            yield 1
        except ValueError:
            await innermost()
            yield 2

    generator = catcher()
    await generator.__anext__()
    await generator.athrow(ValueError())


class Manager:
    async def __aenter__(self):
        await innermost()

    async def __aexit__(self, *_):
        pass


async def managed():
    async with Manager():
        pass


class Awaitable:
    def __await__(self):
        return (yield from innermost().__await__())


async def custom():
    await Awaitable()


async def named():
    asyncio.current_task().set_name("wörker;1: ☃")
    await innermost()


async def unnamed():
    asyncio.ensure_future(leaf())
    await innermost()


async def in_python():
    loop = asyncio.get_running_loop()
    task = asyncio.tasks._PyTask(leaf(), loop=loop)
    name(task, "leaf")
    await name(asyncio.tasks._PyTask(in_python_wait(task), loop=loop), "middle")


async def in_python_wait(task):
    await task


async def ring():
    tasks = []

    async def wait_for_other(index):
        await asyncio.sleep(0)
        await asyncio.wait([tasks[1 - index]])

    for index in range(2):
        tasks.append(name(asyncio.ensure_future(wait_for_other(index)), "ring-%d" % index))
    await innermost()


class Stranger(asyncio.Future):
    """A task of another kind than asyncio's own."""

    def __init__(self, coro, loop):
        super().__init__(loop=loop)
        self._coro = coro
        self._name = "strange/leaf"
        self._fut_waiter = None
        asyncio.tasks._register_task(self)
        loop.call_soon(self.step)

    def set_name(self, given):
        self._name = given

    def get_name(self):
        return self._name

    def get_coro(self):
        return self._coro

    def get_loop(self):
        return self._loop

    def step(self, *_):
        try:
            future = self._coro.send(None)
        except StopIteration as stop:
            self.set_result(stop.value)
        else:
            future._asyncio_future_blocking = False
            self._fut_waiter = future
            future.add_done_callback(self.step)


async def strange():
    Stranger(leaf(), asyncio.get_running_loop())
    await innermost()


def compute():
    ready()
    while True:
        pass


async def running_inner():
    compute()


async def running():
    make_leaf()
    await asyncio.sleep(0)
    await running_inner()


async def running_below():
    await asyncio.gather(name(asyncio.ensure_future(running()), "runner"), make_leaf("other"))


async def eager():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    make_leaf("eager-leaf")
    await innermost()


async def eager_running():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    task = asyncio.get_running_loop().create_task(running_inner(), name="eager_running/eager")
    await task


RUNNING = ("running", "running_below", "eager_running")


async def main(constructs):
    global EVENT
    EVENT = asyncio.Event()
    asyncio.current_task().set_name("main")
    roots = []
    for construct in constructs:
        CONSTRUCT.set(construct)
        roots.append(asyncio.ensure_future(globals()[construct]()))
        if construct != "named":
            name(roots[-1], "root")
    if constructs[-1] in RUNNING:
        await roots[-1]
    # Until each has come to where it stays.
    for _ in range(20):
        await asyncio.sleep(0.01)
    for root in roots:
        if root.done():
            root.result()
    ready()
    if "ends" in sys.argv:
        asyncio.get_running_loop().call_later(2, os._exit, 0)
    await EVENT.wait()


if __name__ == "__main__":
    run(main(sys.argv[1].split(",")))
