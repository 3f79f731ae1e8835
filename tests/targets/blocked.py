"""Threads that wait in the kernel in every way, beside one that Python does not know."""

import ctypes
import os
import queue
import select
import socket
import subprocess
import sys
import threading
import time

from _support import ready


def in_select():
    select.select([pair[0]], [], [])


def in_poll():
    poll = select.poll()
    poll.register(pair[0], select.POLLIN)
    poll.poll()


def in_recv():
    pair[1].recv(1)


def in_read():
    os.read(pipe[0], 1)


def in_readline():
    with open(pipe[0], "rb", closefd=False) as file:
        file.readline()


def in_sleep():
    time.sleep(1000)


def in_lock():
    lock.acquire()


def in_timed_lock():
    lock.acquire(timeout=1000)


def in_event():
    threading.Event().wait()


def in_queue():
    queue.Queue().get()


def in_wait():
    subprocess.run([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=pipe[0])


def in_c():
    ctypes.CDLL(None).pause()


def in_callback():
    ctypes.CFUNCTYPE(None)(in_sleep)()


def in_sort():
    sorted([2, 1], key=lambda item: in_sleep())


def in_generator():
    list(in_sleep() for _ in range(1))


class InProperty:
    @property
    def value(self):
        in_sleep()


def in_property():
    InProperty().value


def in_depth(depth=200):
    in_depth(depth - 1) if depth else in_sleep()


pair = socket.socketpair()
pipe = os.pipe()
lock = threading.Lock()
lock.acquire()
WAYS = [
    in_select, in_poll, in_recv, in_read, in_readline, in_sleep, in_lock, in_timed_lock, in_event,
    in_queue, in_wait, in_c, in_callback, in_sort, in_generator, in_property, in_depth,
]  # fmt: skip


def main():
    library = ctypes.CDLL(None)
    unknown = ctypes.c_ulong()
    pause = ctypes.cast(library.pause, ctypes.c_void_p)
    assert library.pthread_create(ctypes.byref(unknown), None, pause, None) == 0
    for way in WAYS:
        threading.Thread(target=way, name=way.__name__, daemon=True).start()
    ready()
    in_sleep()


if __name__ == "__main__":
    main()
