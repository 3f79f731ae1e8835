"""Opens and closes files without pause: each time it must be given its own lowest free number.

    lowest_numbers.py closed|same|all [SECONDS]

With `closed` it also closes its standard input first, as a daemon does, and expects that number.
With `all` it closes its three standard streams, and goes on until it gets SIGTERM, for SECONDS at
most. Says what else it finds open. It does not wait for a sampler: a start is looked at, too.
"""

import os
import signal
import sys
import threading

import _support

seconds = _support.argument(2, 1.0)


def open_numbers():
    """Of 0 to 1023. Nothing is opened for that, which would take a number itself."""
    found = []
    for number in range(1024):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.append(number)
    return found


is_over = []


def count_others(expected, until):
    others = {}
    times = 0
    while _support.clock() < until and not is_over:
        number = os.open(os.devnull, os.O_RDONLY)
        next_number = os.open(os.devnull, os.O_RDONLY)
        os.close(number)
        os.close(next_number)
        times += 1
        for got, wanted in ((number, expected), (next_number, following[expected])):
            if got != wanted:
                others[got] = others.get(got, 0) + 1
    return times, others


begin = _support.clock()
if sys.argv[1] == "closed":
    os.close(0)
elif sys.argv[1] == "all":
    signal.signal(signal.SIGTERM, lambda *_: is_over.append(True))
    # One that can be borrowed at any time.
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    _support.ready()
    for number in range(3):
        os.close(number)
expected = os.open(os.devnull, os.O_RDONLY)
os.close(expected)
found = open_numbers()
following = {expected: min(set(range(1024)) - set(found) - {expected})}
times, others = count_others(expected, begin + seconds)
_support.report(expected=expected, times=times, others=others, open=found)
