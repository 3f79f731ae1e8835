"""Spends most of its time in the cyclic garbage collector, under a known stack.

    garbage.py [seconds]
"""

import gc

from _support import argument, clock, ready, report


class Node:
    def __init__(self):
        self.itself = self


def collect():
    gc.collect()


def main():
    gc.disable()
    kept = [Node() for _ in range(300000)]
    ready()
    end = clock() + argument(1, 1.0)
    spent = 0.0
    while clock() < end:
        begin = clock()
        collect()
        spent += clock() - begin
    report(collecting=spent, kept=len(kept))


if __name__ == "__main__":
    main()
