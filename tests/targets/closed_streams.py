"""Reports what it finds of its standard streams, whose closing a test has arranged.

    closed_streams.py report
    closed_streams.py spawn 0|1|2      starts itself with that one closed, by posix_spawn()
"""

import os
import sys

import _support


def describe(number):
    try:
        return os.readlink("/proc/self/fd/%d" % number).partition(":")[0]
    except OSError:
        return None


def report():
    streams = [describe(number) for number in range(3)]
    objects = [one is None for one in (sys.stdin, sys.stdout, sys.stderr)]
    before = os.open(os.devnull, os.O_RDONLY)
    os.close(before)
    print("written")
    print("written", file=sys.stderr)
    # A sampler's reading, opening and closing show in what comes while it works.
    numbers = set()
    end = _support.clock() + 0.3
    while _support.clock() < end:
        number = os.open(os.devnull, os.O_RDONLY)
        os.close(number)
        numbers.add(number)
    _support.report(streams=streams, objects=objects, before=before, numbers=sorted(numbers))


if sys.argv[1] == "report":
    report()
else:
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, __file__, "report"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_CLOSE, int(sys.argv[2]))],
    )
    assert os.waitpid(child, 0)[1] == 0
