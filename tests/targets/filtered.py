"""Installs seccomp filters, and then does as it is told.

    filtered.py FILTERS KIND      FILTERS: a JSON file, a list of programs of [code, jt, jf, k]

Kinds: `waits` for the end of its input; `spins`, using CPU time, until then; `sleeps`, in short
sleeps one after the other, until then; `sleep` for 0.6 s at once, and says how long; `worker`: the
filters are those of a second thread alone; `later`: works for a while, installs them for all of its
threads, says `locked`, and works on until a sampler has gone or for 2 s; `on`: likewise, until the
end of its input. Ends by os._exit(), which
needs few system calls.
"""

import ctypes
import json
import os
import select
import struct
import sys
import threading
import time

import _support

PR_SET_NO_NEW_PRIVS, SYS_SECCOMP = 38, 317  # x86-64
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC = 1, 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def install(instructions, flags=0):
    text = b"".join(struct.pack("<HBBI", *one) for one in instructions)
    program = Program(len(instructions), text)
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or LIBC.syscall(
        SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, flags, ctypes.byref(program)
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


def install_all(programs):
    for instructions in programs:
        install(instructions)


def waits():
    while os.read(0, 100):
        pass
    return {"got": "end"}


def spins():
    os.set_blocking(0, False)
    while True:
        for _ in range(200):
            sum(range(1000))
        try:
            if not os.read(0, 100):
                return {"got": "end"}
        except BlockingIOError:
            pass


def sleeps():
    os.set_blocking(0, False)
    while True:
        time.sleep(0.002)
        try:
            if not os.read(0, 100):
                return {"got": "end"}
        except BlockingIOError:
            pass


def sleep():
    # poll(2) with a time limit. time.sleep() has an absolute end from 3.11 on, and is begun anew.
    poller, begin = select.poll(), time.monotonic()
    poller.poll(600)
    slept = time.monotonic() - begin
    return {"got": "end" if slept >= 0.6 else slept}


def work_until(is_over, limit):
    end = time.perf_counter() + limit
    while time.perf_counter() < end and not is_over():
        for _ in range(100):
            sum(range(1000))


def before():
    work_until(lambda: False, 0.3)


def later(programs, ready, goes_on=False):
    _support.wait_for_sampler()
    before()
    folder = os.open("/proc/self/task", os.O_RDONLY)
    for instructions in programs:
        install(instructions, SECCOMP_FILTER_FLAG_TSYNC)
    os.write(ready, b"locked\n")
    if goes_on:
        return spins()
    # The sampler is a thread of this process.
    work_until(lambda: len(os.listdir(folder)) == 1, 2.0)
    return {"got": "end"}


def main():
    with open(sys.argv[1]) as file:
        programs = json.load(file)
    kind = sys.argv[2]
    report = os.open(os.environ["ECHION_TEST_REPORT"], os.O_WRONLY | os.O_CREAT, 0o666)
    ready = os.open(os.environ["ECHION_TEST_FIFO"], os.O_WRONLY)
    word = b"ready %d\n" % os.getpid()
    if kind == "worker":
        is_installed, may_end = threading.Event(), threading.Event()

        def work():
            install_all(programs)
            is_installed.set()
            may_end.wait()

        threading.Thread(target=work).start()
        is_installed.wait()
        os.write(ready, word)
        result = waits()
        may_end.set()
    elif kind in ("later", "on"):
        result = later(programs, ready, goes_on=kind == "on")
    else:
        job = globals()[kind]
        install_all(programs)
        os.write(ready, word)
        result = job()
    os.write(report, json.dumps(result).encode())
    os._exit(0)


main()
