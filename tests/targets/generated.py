"""Generated code, as templates and notebooks make it: one piece runs for 3 ms and is dropped, the
next one, in its place, waits.

    generated.py [pieces] [seconds of each wait]
"""

import time  # calls others

from _support import argument, clock, ready, report  # calls others

BUSY_S = 0.003
# File of each piece, in the order in which they ran → the time that it took.
pieces = []


def burn(seconds):  # called by others
    end = clock() + seconds
    while clock() < end:
        pass


def run_piece(source, file, names):
    begin, begin_cpu = clock(), time.thread_time()
    exec(compile(source, file, "exec"), names)  # calls *.html
    pieces.append((file, clock() - begin, time.thread_time() - begin_cpu))


def main():
    count, wait_s = argument(1, 6, int), argument(2, 0.3)  # calls others
    ready()  # calls others
    for number in range(count):
        run_piece("burn(%r)\n" % BUSY_S, "busy_%d.html" % number, {"burn": burn})  # calls run_piece
        source = "wait(%r)\n" % wait_s
        run_piece(source, "wait_%d.html" % number, {"wait": time.sleep})  # calls run_piece
    report(pieces=pieces, wait_s=wait_s, busy_s=BUSY_S)  # calls others


if __name__ == "__main__":
    main()  # calls main
