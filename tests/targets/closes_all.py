"""Closes all descriptors as a daemon does, opens its own in their place, asks for its stacks, and
looks after a while which of its own somebody else has used.

    closes_all.py files|sockets|list [TIMES]

With `list` it only tells what is open beside what it was given.
"""

import os
import signal
import socket
import sys
import time

import _support

NUMBER = 40
FIRST, BEHIND = 3, 1024
TIMES = _support.argument(2, 8, int)
PAUSE_S = 0.05
MINE = b"mine"


def open_files():
    return [os.open(os.devnull, os.O_RDWR) for _ in range(NUMBER)]


def open_sockets():
    """Both ends of each pair; each end has something to be read."""
    numbers = []
    for _ in range(NUMBER // 2):
        pair = socket.socketpair()
        for end in pair:
            end.send(MINE)
            end.setblocking(False)
        numbers += [end.detach() for end in pair]
    return numbers


def names():
    found = {}
    for number in range(FIRST, BEHIND):
        try:
            found[number] = os.readlink("/proc/self/fd/%d" % number)
        except OSError:
            pass
    return found


def contents(number):
    try:
        return os.read(number, 100)
    except OSError as error:
        return str(error).encode()


# A handler in Python as well: the signal ends nobody when there is no sampler (any more).
signal.signal(signal.SIGQUIT, lambda *_: None)
_support.wait_for_sampler()
if sys.argv[1] == "list":
    _support.report(open=sorted(names().values()))
    raise SystemExit

os.closerange(FIRST, BEHIND)
mine = open_files() if sys.argv[1] == "files" else open_sockets()
before = names()
if TIMES != 8:
    _support.ready()
spun_ns = -time.thread_time_ns()
for _ in range(TIMES):
    os.kill(os.getpid(), signal.SIGQUIT)
    _support.spin(PAUSE_S)
    time.sleep(PAUSE_S)
spun_ns += time.thread_time_ns()
after = names()
touched = [n for n in mine if sys.argv[1] == "sockets" and contents(n) != MINE]
_support.report(
    count=len(mine),
    lost=[n for n in mine if after.get(n) != before[n]],
    touched=touched,
    spun_us=spun_ns // 1000,
)
