"""Programs that stay in a known place, for where mode and SIGQUIT.

    whereabouts.py SCENE [argument]

Each says `ready` when it is there, or just before it goes there where it cannot say so from within.
"""

import ctypes
import hashlib
import os
import signal
import sys
import threading
import time

from _support import ready, say

FOREVER = 1000


def sleeping():
    sleep_here()


def sleep_here():
    ready()
    time.sleep(FOREVER)


def busy():
    ready()
    while True:
        busy_outer()


def busy_outer():
    busy_inner()
    busy_inner()


def busy_inner():
    return 1


def deadlocked():
    first, second = threading.Lock(), threading.Lock()
    both_hold_one = threading.Barrier(3)
    for name, mine, other in (("one", first, second), ("two", second, first)):
        threading.Thread(
            target=take_both, args=(mine, other, both_hold_one), name=name, daemon=True
        ).start()
    both_hold_one.wait()
    ready()
    wait_for_the_others()


def take_both(mine, other, both_hold_one):
    with mine:
        both_hold_one.wait()
        take_the_other(other)


def take_the_other(other):
    other.acquire()


def wait_for_the_others():
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join()


def many():
    started = threading.Barrier(int(sys.argv[2]))
    wake = threading.Event()

    def work():
        started.wait()
        wait_in_worker(wake)

    for number in range(int(sys.argv[2]) - 1):
        threading.Thread(target=work, name="worker-%d" % number, daemon=True).start()
    started.wait()
    ready()
    time.sleep(FOREVER)


def wait_in_worker(wake):
    wake.wait()


def names():
    def größe_世界():
        ready()
        time.sleep(FOREVER)

    threading.current_thread().name = "fädchen 🧶 \x1b[31m \N{RIGHT-TO-LEFT OVERRIDE}"
    größe_世界()


def sub_interpreter():
    try:
        import _xxsubinterpreters as interpreters
    except ImportError:
        import _interpreters as interpreters
    reading, writing = os.pipe()
    number = interpreters.create()
    code = (
        "import os, time\n"
        "def in_the_other():\n"
        "    os.write(%d, b'x')\n"
        "    time.sleep(%d)\n"
        "in_the_other()\n"
    ) % (writing, FOREVER)
    threading.Thread(target=interpreters.run_string, args=(number, code), daemon=True).start()
    os.read(reading, 1)
    ready()
    time.sleep(FOREVER)


def frameless():
    library = ctypes.CDLL(sys.argv[2])
    assert library.start_c_threads() == 0
    ready()
    time.sleep(FOREVER)


def holding_the_gil():
    ready()
    hold_it()


def hold_it():
    ctypes.PyDLL(None).sleep(FOREVER)  # unlike CDLL, keeps the GIL


def holding_the_gil_for_ever():
    ready()
    hold_it_for_ever()


def hold_it_for_ever():
    # A lock of the C library that nobody releases: unlike sleep(3), the wait goes on behind a
    # signal.
    library = ctypes.PyDLL(None)
    mutex = ctypes.create_string_buffer(64)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)


def waiting_for_the_gil():
    go = []

    def holder():
        while not go:
            time.sleep(0.001)
        hold_it()

    threading.Thread(target=holder, name="holder", daemon=True).start()
    ready()
    want_it(go)


def want_it(go):
    go.append(True)
    while True:
        time.sleep(0.001)


def leader_gone():
    def survivor():
        ready()
        time.sleep(FOREVER)

    threading.Thread(target=survivor, name="survivor").start()
    exit_thread = 60  # exit(2), x86-64: ends this thread, not the process
    ctypes.CDLL(None).syscall(exit_thread, 0)


def own_handler():
    calls = []

    def handle(number, frame):
        calls.append(number)
        say("handled", len(calls))

    # As programs are that are started with Ctrl-C ignored, or that have no use for it.
    if sys.argv[2] == "without_sigint":
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    while not is_caught(signal.SIGQUIT):  # the agent is there first
        time.sleep(0.001)
    signal.signal(signal.SIGQUIT, handle)
    sleep_here()
    while True:  # a sleep that the signal has ended
        time.sleep(1)


def handler_from_c():
    # faulthandler's handler is one in C that calls the one before it. That has to be the agent's:
    # in front of the default it would end the process.
    import faulthandler

    while not is_caught(signal.SIGQUIT):
        time.sleep(0.001)

    faulthandler.register(signal.SIGQUIT, file=open(sys.argv[2], "w"), chain=True)
    sleep_here()


def is_caught(number):
    with open("/proc/self/status") as status:
        caught = next(line for line in status if line.startswith("SigCgt:"))
    return int(caught.split()[1], 16) >> (number - 1) & 1


def disposition():
    """Says what SIGQUIT does in this process and in two kinds of children, when asked."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    ready()
    signal.sigwait({signal.SIGUSR1})
    child = os.fork()
    if child == 0:
        os.kill(os.getpid(), signal.SIGQUIT)
        time.sleep(FOREVER)
    say("fork", signal_of(os.waitpid(child, 0)[1]))
    child = os.posix_spawn(
        sys.executable, [sys.executable, "-c", "import os; os.kill(os.getpid(), 3)"],
        {key: value for key, value in os.environ.items() if key != "ECHION_CHANNEL"},
    )
    say("spawn", signal_of(os.waitpid(child, 0)[1]))
    time.sleep(FOREVER)


def signal_of(status):
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def counted():
    """Two places, three times as long in one as in the other."""
    ready()
    while True:
        long_part()
        short_part()


def long_part():
    end = time.perf_counter() + 0.03
    while time.perf_counter() < end:
        pass


def short_part():
    time.sleep(0.01)


def scheduled():
    """Four threads beside the main one. On the CPU whose number is the argument: `first` and `second`,
    which share it, and `last`, which only gets what they leave. On any CPU: `free`."""
    cpu = {int(sys.argv[2])}
    for name, cpus, policy in (
        ("first", cpu, os.SCHED_OTHER),
        ("second", cpu, os.SCHED_OTHER),
        ("last", cpu, os.SCHED_IDLE),
        ("free", os.sched_getaffinity(0), os.SCHED_OTHER),
    ):
        threading.Thread(target=compute_here, args=(cpus, policy), name=name, daemon=True).start()
    ready()
    time.sleep(FOREVER)


def compute_here(cpus, policy):
    os.sched_setaffinity(0, cpus)
    os.sched_setscheduler(0, policy, os.sched_param(0))
    compute()


def compute():
    # Without the GIL, and without an end.
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 2**31 - 1)


def uninterruptible():
    """In posix_spawn(3), which waits for its child to be another program: uninterruptibly, as the
    child has the parent's memory (vfork(2)). The child waits for somebody to write to a FIFO."""
    os.mkfifo(sys.argv[2])
    ready()
    spawn()


def spawn():
    file = (os.POSIX_SPAWN_OPEN, 0, sys.argv[2], os.O_RDONLY, 0)
    os.posix_spawn(sys.executable, [sys.executable, "-c", ""], {}, file_actions=[file])


def ending():
    if "ECHION_TEST_STDERR" in os.environ:
        os.dup2(int(os.environ["ECHION_TEST_STDERR"]), 2)
    ready()
    time.sleep(float(sys.argv[2]))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
