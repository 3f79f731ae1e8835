"""Two functions that use CPU time by turns, each turn shorter than the sampler sleeps. The stack of
one is such that the kernel's copies of it are of no use.

    in_two_halves.py replaced|deep [seconds]

replaced: its code object is where another one was. deep: it has more frames than a copy holds.
"""

import sys
import time

from _support import argument, ready, report

TURN_S = 0.0003
MET_S = 0.003
FRAMES = 200
MODE = sys.argv[1]
SECONDS = argument(2, 1.5)


def work(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def plain(depth):
    work(TURN_S)


def deep(depth):
    if depth:
        deep(depth - 1)
    else:
        work(TURN_S)


def make(name, seconds):
    names = {"work": work}
    exec(f"def {name}(depth):\n    work({seconds})\n", names)
    return names[name]


def make_replaced():
    """A function whose code object is where that of another one was that has been seen."""
    places = set()
    for number in range(10000):
        function = make("replaced", TURN_S)
        if id(function.__code__) in places:
            return function
        function = make(f"former{number}", MET_S)
        places.add(id(function.__code__))
        function(0)
    raise SystemExit("each code object has a place of its own")


def main():
    ready()
    other = make_replaced() if MODE == "replaced" else deep
    spent = {"plain": 0.0, MODE: 0.0}
    now = time.thread_time()
    end = now + SECONDS
    while now < end:
        for name, function in (("plain", plain), (MODE, other)):
            begin = now
            function(FRAMES)
            now = time.thread_time()
            spent[name] += now - begin
    report(spent=spent)


if __name__ == "__main__":
    main()
