"""Greenlets that wait for each other in every way that greenlet and gevent have, or run.

    greenlets.py CONSTRUCT,...    of gevent's: each has a greenlet CONSTRUCT/root, which waits through
                                  the construct for CONSTRUCT/leaf, say, which waits for an event
    greenlets.py plain            without gevent: suspended in each other, running, not started
    greenlets.py bridge           a greenlet in a task of asyncio, as SQLAlchemy has them
    greenlets.py threads          two threads with a hub each, and a plain greenlet in the main thread
    greenlets.py churn            they begin, switch and end all the time, in two threads

Says that it is ready when all of them are where they stay, but for the hub, which is about to wait.
"""

import os
import signal
import sys
import threading

from _support import ready


def hold():
    """Stays in a system call of its own, until the test is over."""
    ready()
    while True:
        signal.pause()


# ---- greenlet ----


def plain():
    import greenlet

    class Derived(greenlet.greenlet):
        pass

    kept = []

    def leave():
        greenlet.getcurrent().parent.switch()

    def inner():
        leave()

    def outer():
        kept.append(greenlet.greenlet(inner))
        kept[-1].switch()
        leave()

    def generate():
        try:
            raise ValueError
        except ValueError:
            leave()
            yield

    def generating():
        list(generate())

    def key(_):
        leave()
        return 0

    def sorting():
        sorted([1], key=key)

    def deep(depth):
        deep(depth - 1) if depth else leave()

    def running():
        hold()

    for function in (outer, generating, sorting):
        kept.append(greenlet.greenlet(function))
        kept[-1].switch()
    kept.append(Derived(deep))
    kept[-1].switch(30)
    finished = greenlet.greenlet(lambda: None)
    finished.switch()
    kept.append(greenlet.greenlet(inner))  # not started
    greenlet.greenlet(running).switch()


# ---- gevent ----

CONSTRUCTS = []
EVENT = None


def construct(function):
    CONSTRUCTS.append(function.__name__)
    return function


def spawn(name, function, *arguments):
    import gevent

    made = gevent.spawn(function, *arguments)
    made.name = name
    return made


def innermost():
    EVENT.wait()


def leaf():
    innermost()


def make_leaf(construct, given="leaf"):
    return spawn("%s/%s" % (construct, given), leaf)


def two(construct):
    return [make_leaf(construct, "leaf-1"), make_leaf(construct, "leaf-2")]


@construct
def joined():
    make_leaf("joined").join()


@construct
def got():
    make_leaf("got").get()


@construct
def all_joined():
    gevent.joinall(two("all_joined"))


@construct
def waited():
    gevent.wait(two("waited"))


@construct
def waited_for_any():
    gevent.wait(two("waited_for_any"), count=1)


@construct
def iterated():
    for _ in gevent.iwait(two("iterated")):
        pass


@construct
def result_got():
    result = gevent.event.AsyncResult()
    make_leaf("result_got").link(result)
    result.get()


@construct
def pool_joined():
    pool = gevent.pool.Pool(2)
    for given in ("leaf-1", "leaf-2"):
        pool.start(name(gevent.Greenlet(leaf), "pool_joined/" + given))
    pool.join()


@construct
def pool_full():
    pool = gevent.pool.Pool(1)
    for given in ("leaf", "next"):
        pool.start(name(gevent.Greenlet(leaf), "pool_full/" + given))


@construct
def mapped():
    def work(_):
        gevent.getcurrent().name = "mapped/leaf"
        leaf()

    gevent.pool.Pool(2).map(work, [1])


@construct
def mapped_one_by_one():
    def work(_):
        gevent.getcurrent().name = "mapped_one_by_one/leaf"
        leaf()

    for _ in gevent.pool.Pool(2).imap_unordered(work, [1]):
        pass


@construct
def queued():
    gevent.queue.Queue().get()


@construct
def slept():
    gevent.sleep(1000)


@construct
def locked():
    gevent.lock.BoundedSemaphore(1).acquire()
    lock = gevent.lock.Semaphore(0)
    lock.acquire()


@construct
def ring():
    def wait_for_other(own):
        while len(others) < 2:
            gevent.sleep(0)
        others[1 - own].join()

    others = []
    for own in (0, 1):
        others.append(spawn("ring/ring-%d" % own, wait_for_other, own))


@construct
def deep():
    def middle():
        make_leaf("deep").join()

    spawn("deep/middle", middle).join()


@construct
def not_started():
    gevent.spawn_later(1000, leaf).name = "not_started/leaf"
    innermost()


@construct
def threaded():
    gevent.threadpool.ThreadPool(1).apply(threading.Event().wait)


def name(greenlet, given):
    greenlet.name = given
    return greenlet


def import_gevent():
    global gevent, EVENT
    import gevent
    import gevent.event
    import gevent.lock
    import gevent.pool
    import gevent.queue
    import gevent.threadpool

    EVENT = gevent.event.Event()


def of_gevent(constructs):
    import_gevent()
    roots = [spawn(one + "/root", globals()[one]) for one in constructs]
    for _ in range(20):  # until each has come to where it stays
        gevent.sleep(0.01)
    ready()
    gevent.joinall(roots)


# ---- both with others ----


def bridge():
    import asyncio

    import greenlet

    def await_only(awaitable):
        return greenlet.getcurrent().parent.switch(awaitable)

    async def spawn_greenlet(function):
        made = greenlet.greenlet(function)
        result = made.switch()
        while not made.dead:
            result = made.switch(await result)
        return result

    def query():
        return await_only(event.wait())

    async def session():
        await spawn_greenlet(query)

    async def main():
        global event
        event = asyncio.Event()
        task = asyncio.ensure_future(session())
        task.set_name("session")
        for _ in range(5):
            await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_soon(ready)
        await task

    asyncio.run(main())


def threads():
    import_gevent()
    started = threading.Barrier(3)

    def run(given):
        leaf = spawn(given + "/leaf", gevent.sleep, 1000)
        root = spawn(given + "/root", leaf.join)
        gevent.sleep(0.01)
        started.wait()
        root.join()

    for given in ("one", "two"):
        threading.Thread(target=run, args=(given,), name=given, daemon=True).start()
    started.wait()
    for thread in os.listdir("/proc/self/task"):
        if int(thread) != os.getpid():
            wait_until_blocked(thread)
    plain()


def wait_until_blocked(thread):
    while True:
        with open("/proc/self/task/%s/syscall" % thread) as file:
            if file.read().split()[0] in ("232", "281"):  # epoll_wait, epoll_pwait
                return


def churn():
    import greenlet

    def churn_leaf(depth):
        if depth:
            return churn_leaf(depth - 1)
        greenlet.getcurrent().parent.switch()
        return [[] for _ in range(20)]

    def churn_root():
        made = [greenlet.greenlet(churn_leaf) for _ in range(10)]
        for depth, one in enumerate(made):
            one.switch(depth)
        greenlet.getcurrent().parent.switch()
        for one in made:
            one.switch()

    def churn_all():
        while True:
            made = [greenlet.greenlet(churn_root) for _ in range(5)]
            for one in made:
                one.switch()
            for one in made:
                one.switch()

    threading.Thread(target=churn_all, name="second", daemon=True).start()
    ready()
    churn_all()


if __name__ == "__main__":
    mode = sys.argv[1]
    alone = {"plain": plain, "bridge": bridge, "threads": threads, "churn": churn}
    if mode in alone:
        alone[mode]()
    else:
        of_gevent(mode.split(","))
