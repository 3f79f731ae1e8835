"""A main thread alone in one call, which says afterwards whether the call did what it should.

    waits.py KIND [seconds]

The raw kinds call the C library without Python's own retrying (PEP 475): they see an EINTR that
has no signal behind it. A kind that waits for the test ends when the test closes standard input.
"""

import ctypes
import ctypes.util
import hashlib
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

from _support import argument, ready, report

SECONDS = argument(2, 2.0)
libc = ctypes.CDLL(None, use_errno=True)


class Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class PollFd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


def sleep():
    return time.sleep(SECONDS), None


def lock_with_timeout():
    lock = threading.Lock()
    lock.acquire()
    return lock.acquire(timeout=SECONDS), False


def select_with_timeout():
    reader, _writer = os.pipe()
    return select.select([reader], [], [], SECONDS), ([], [], [])


def epoll_with_timeout():
    reader, _writer = os.pipe()
    poller = select.epoll()
    poller.register(reader, select.EPOLLIN)
    return poller.poll(SECONDS), []


def sigtimedwait():
    return signal.sigtimedwait([signal.SIGUSR2], SECONDS), None


def subprocess_wait():
    # The child sees its standard input end when the test closes ours, which it inherits.
    return subprocess.run(["cat"], stdout=subprocess.DEVNULL).returncode, 0


def read_pipe():
    return os.read(0, 100), b""


def c_loop():
    digest = hashlib.pbkdf2_hmac("sha256", b"echion", b"salt", int(SECONDS * 1000000))
    return digest, hashlib.pbkdf2_hmac("sha256", b"echion", b"salt", int(SECONDS * 1000000))


def raw_nanosleep():
    whole = int(SECONDS)
    request = Timespec(whole, int((SECONDS - whole) * 1e9))
    return libc.nanosleep(ctypes.byref(request), None), 0


def raw_poll():
    reader, _writer = os.pipe()
    entry = PollFd(reader, select.POLLIN, 0)
    return libc.poll(ctypes.byref(entry), 1, int(SECONDS * 1000)), 0


def raw_read():
    buffer = ctypes.create_string_buffer(16)
    return libc.read(0, buffer, 16), 0


def raw_recv_with_timeout():
    """The socket's own time limit, which may begin anew: as a server answers, or not at all."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 60, 0))
    # Answers when the test closes our standard input, which it inherits.
    subprocess.Popen(["sh", "-c", "cat >/dev/null; echo"], stdout=theirs)
    buffer = ctypes.create_string_buffer(16)
    return libc.recv(ours.fileno(), buffer, 16, 0), 1


def raw_endless_epoll():
    poller = libc.epoll_create1(0)
    event = ctypes.create_string_buffer(12)
    event[0] = bytes([select.EPOLLIN])
    reader, writer = os.pipe()
    libc.epoll_ctl(poller, 1, reader, event)
    # Another process ends the wait: this one has a single thread.
    subprocess.Popen(["sh", "-c", "cat >/dev/null; echo"], stdout=writer)
    return libc.epoll_wait(poller, event, 1, -1), 1


def raw_sem_timedwait():
    semaphore = ctypes.create_string_buffer(64)
    libc.sem_init(semaphore, 0, 0)
    end = time.clock_gettime(time.CLOCK_REALTIME) + SECONDS
    deadline = Timespec(int(end), int((end - int(end)) * 1e9))
    result = libc.sem_timedwait(semaphore, ctypes.byref(deadline))
    return (result, ctypes.get_errno()), (-1, 110)  # ETIMEDOUT


KINDS = {
    one.__name__: one
    for one in (
        sleep,
        lock_with_timeout,
        select_with_timeout,
        epoll_with_timeout,
        sigtimedwait,
        subprocess_wait,
        read_pipe,
        c_loop,
        raw_nanosleep,
        raw_poll,
        raw_read,
        raw_recv_with_timeout,
        raw_endless_epoll,
        raw_sem_timedwait,
    )
}
UNTIMED = {
    "subprocess_wait",
    "read_pipe",
    "c_loop",
    "raw_read",
    "raw_recv_with_timeout",
    "raw_endless_epoll",
}


def main():
    kind = sys.argv[1]
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    ready()
    begin = time.monotonic()
    got, wanted = KINDS[kind]()
    seconds = time.monotonic() - begin
    report(
        got=repr(got),
        wanted=repr(wanted),
        seconds=seconds,
        too_short=kind not in UNTIMED and seconds < SECONDS - 0.002,
    )


if __name__ == "__main__":
    main()
