"""Opens and closes files without pause: each time it must be given its own lowest free number.

    lowest_numbers.py closed|same [SECONDS]

With `closed` it also closes its standard input first, as a daemon does, and expects that number.
Says what else it finds open. It does not wait for a sampler: a start is looked at, too.
"""

import os
import sys

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


def count_others(expected, until):
    others = {}
    times = 0
    while _support.clock() < until:
        number = os.open(os.devnull, os.O_RDONLY)
        os.close(number)
        times += 1
        if number != expected:
            others[number] = others.get(number, 0) + 1
    return times, others


begin = _support.clock()
if sys.argv[1] == "closed":
    os.close(0)
expected = os.open(os.devnull, os.O_RDONLY)
os.close(expected)
found = open_numbers()
times, others = count_others(expected, begin + seconds)
_support.report(expected=expected, times=times, others=others, open=found)
