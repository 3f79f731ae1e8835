"""Templates compiled one after the other, each busy for some milliseconds and then dropped, so that
its code object takes the place of the one before.

    templates.py [seconds]
"""

import time  # calls others

from _support import argument, clock, ready, report  # calls others

SOURCE = """
end = clock() + {0}
while clock() < end:
    for _ in range(20):
        fill(end)
"""
# File of each piece, in the order in which they ran → the time that it took.
pieces = []


def fill(value):  # called by others
    return value


def render(number):
    file = "page_%d.html" % number
    source = SOURCE.format((2 + number % 4) / 1000)
    begin, begin_cpu = clock(), time.thread_time()
    exec(compile(source, file, "exec"), {"clock": clock, "fill": fill})  # calls *.html
    pieces.append((file, clock() - begin, time.thread_time() - begin_cpu))


def main():
    seconds = argument(1, 2.0)  # calls others
    ready()  # calls others
    end = clock() + seconds
    number = 0
    while clock() < end:
        render(number)  # calls render
        number += 1
    report(pieces=pieces)  # calls others


if __name__ == "__main__":
    main()  # calls main
