"""Ways for a program to end, each after some time in `before_the_end`.

    endings.py HOW [seconds]

With --list prints every HOW with the exit status that a shell would see.
"""

import atexit
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time

from _support import argument, clock, ready, report, spin

SECONDS = argument(2, 0.3)
WAYS = {}


def way(status):
    def register(function):
        WAYS[function.__name__] = (function, status)
        return function

    return register


def before_the_end():
    return spin(SECONDS)


def die_of(number):
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    while True:  # the signal may be handled by another thread first
        time.sleep(1)


@way(0)
def returns():
    pass


@way(3)
def sys_exit():
    sys.exit(3)


@way(1)
def exception():
    raise RuntimeError("on purpose")


@way(7)
def os_exit():
    os._exit(7)


@way(128 + signal.SIGKILL)
def killed():
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@way(128 + signal.SIGTERM)
def terminated():
    die_of(signal.SIGTERM)


@way(128 + signal.SIGABRT)
def aborted():
    os.abort()


@way(128 + signal.SIGSEGV)
def segmentation_fault():
    ctypes.string_at(0)


@way(0)
def daemon_threads():
    """They are still busy while the interpreter is finalised."""

    def busy():
        while True:
            spin(0.01)

    def idle():
        while True:
            time.sleep(0.001)

    for target in (busy, busy, idle, idle):
        threading.Thread(target=target, daemon=True).start()
    spin(0.05)


@way(0)
def busy_at_exit():
    atexit.register(spin, SECONDS)


@way(5)
def os_exit_with_threads():
    lock = threading.Lock()
    lock.acquire()
    for _ in range(5):
        threading.Thread(target=lock.acquire, daemon=True).start()
    os._exit(5)


@way(0)
def main_thread_ends_first():
    threading.Thread(target=before_the_end).start()


# --- fork, exec, children ----------------------------------------------------------------------


def expect(pid, status):
    _, got = os.waitpid(pid, 0)
    if got != status:
        os.write(2, "child ended with {} instead of {}\n".format(got, status).encode())
        os._exit(99)


@way(0)
def fork_and_exit():
    pid = os.fork()
    if pid == 0:
        os._exit(4)
    expect(pid, 4 << 8)


@way(0)
def fork_and_work():
    pid = os.fork()
    if pid == 0:
        before_the_end()
        sys.exit(6)
    begin = time.monotonic()
    before_the_end()
    report(wall_s=time.monotonic() - begin)
    expect(pid, 6 << 8)


@way(0)
def fork_with_threads():
    def busy(end):
        while clock() < end:
            pass

    threads = [threading.Thread(target=busy, args=(clock() + SECONDS,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    pids = []
    for number in range(10):
        pid = os.fork()
        if pid == 0:
            spin(0.02)
            os._exit(number)
        pids.append(pid)
    for number, pid in enumerate(pids):
        expect(pid, number << 8)
    for thread in threads:
        thread.join()


@way(0)
def child_outlives():
    """The child works on for a while after its parent has ended."""
    if os.fork() == 0:
        for descriptor in (1, 2):  # do not keep the test's pipes open
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        spin(SECONDS)
        os._exit(0)


@way(0)
def nested_forks():
    pid = os.fork()
    if pid == 0:
        inner = os.fork()
        if inner == 0:
            spin(0.05)
            os._exit(1)
        expect(inner, 1 << 8)
        os._exit(2)
    expect(pid, 2 << 8)


@way(128 + signal.SIGKILL)
def killed_after_fork():
    if os.fork() == 0:
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


@way(9)
def exec_python():
    code = "import sys, time\ndef after_exec(end):\n  while time.perf_counter() < end: pass\n"
    code += "after_exec(time.perf_counter() + {})\nsys.exit(9)".format(SECONDS)
    os.execv(sys.executable, [sys.executable, "-c", code])


@way(0)
def exec_other():
    os.execv("/bin/true", ["true"])


@way(0)
def children():
    """A tree of processes, of which each checks its children."""
    code = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-c', 'raise SystemExit(2)']))"
    for command, status in (
        (["/bin/true"], 0),
        (["/bin/sh", "-c", "exit 3"], 3),
        ([sys.executable, "-c", "raise SystemExit(4)"], 4),
        ([sys.executable, "-c", code], 2),
    ):
        if subprocess.call(command) != status:
            os._exit(99)


@way(0)
def multiprocessing_pool():
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(2) as pool:
        if pool.map(abs, range(-20, 0)) != list(range(20, 0, -1)):
            os._exit(99)


@way(0)
def vfork_and_spawn():
    pids = [os.posix_spawn("/bin/true", ["true"], os.environ) for _ in range(5)]
    for pid in pids:
        expect(pid, 0)


if __name__ == "__main__":
    if sys.argv[1] == "--list":
        print(json.dumps({name: status for name, (_, status) in WAYS.items()}))
        sys.exit()
    ready()
    before_the_end()
    WAYS[sys.argv[1]][0]()
