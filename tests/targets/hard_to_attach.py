"""Programs that do without pause what makes attaching to them hard. Each goes on until its standard
input ends, and writes to its standard output as it goes: `m` for its main thread's progress, `w` for
that of the other thread, or of the awkward work itself. A full pipe is not waited for.

    hard_to_attach.py setgroups    a thread changes the whole process's groups: the C library stops
                                   all threads for it, by a signal of its own
    hard_to_attach.py vfork        starts processes with vfork(), in which it shares its memory
    hard_to_attach.py exec         runs itself anew
    hard_to_attach.py crowd        200 threads that come and go
"""

import os
import select
import sys
import threading
import time

THREADS = 200
PAUSE_S = 0.002


def beat(kind):
    try:
        os.write(1, kind)
    except BlockingIOError:
        pass  # nobody has read for a while


def is_over():
    return bool(select.select([0], [], [], 0)[0])


def until_over():
    while not is_over():
        beat(b"m")
        time.sleep(PAUSE_S)


def beside(work):
    """`work` in a thread, again and again, beside the main one."""
    over = threading.Event()

    def run():
        while not over.is_set():
            work()
            beat(b"w")

    thread = threading.Thread(target=run)
    thread.start()
    until_over()
    over.set()
    thread.join()


def setgroups():
    groups = os.getgroups()
    beside(lambda: os.setgroups(groups))


def vfork():
    def work():
        pid = os.posix_spawn("/bin/true", ["true"], {})
        status = os.waitpid(pid, 0)[1]
        assert status == 0, f"/bin/true ended with {status}"

    beside(work)


def run_anew():
    # From two threads in turn: the kernel ends the others, and gives the one that calls it the number
    # of the main one.
    beat(b"m")
    if is_over():
        return
    arguments = [sys.executable, "-I", "-S", __file__, "exec"]
    by_thread = threading.Thread(target=lambda: (beat(b"w"), os.execv(sys.executable, arguments)))
    if time.monotonic_ns() // 1000 % 2:
        by_thread.start()
        by_thread.join()
    beat(b"w")
    os.execv(sys.executable, arguments)


def crowd():
    threads = []
    while not is_over():
        beat(b"m")
        while len(threads) < THREADS:
            threads.append(threading.Thread(target=time.sleep, args=(PAUSE_S,)))
            threads[-1].start()
        # The oldest go, others come in their place.
        for thread in threads[: THREADS // 4]:
            thread.join()
        del threads[: THREADS // 4]
        beat(b"w")
    for thread in threads:
        thread.join()


os.set_blocking(1, False)
{"setgroups": setgroups, "vfork": vfork, "exec": run_anew, "crowd": crowd}[sys.argv[1]]()
