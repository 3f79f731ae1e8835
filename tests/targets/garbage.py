"""Spends most of its time in the cyclic garbage collector, under a known stack.

    garbage.py [seconds]
"""

import gc

from _support import argument, clock, ready, report, spin


class Node:
    def __init__(self):
        self.itself = self


def collect():
    gc.collect()


def main():
    gc.disable()
    spin(0.5)  # until the sampler has begun, whatever it has to load first
    kept = [Node() for _ in range(300000)]
    end = clock() + argument(1, 1.0)
    ready()
    spent = 0.0
    while clock() < end:
        begin = clock()
        collect()
        spent += clock() - begin
    report(collecting=spent, kept=len(kept))


if __name__ == "__main__":
    main()
