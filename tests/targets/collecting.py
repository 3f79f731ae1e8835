"""Spends about half of its time in the cyclic garbage collector, which measures itself by gc.callbacks.

    collecting.py [seconds]
"""

import gc  # calls others
import time  # calls others

from _support import argument, clock, ready, report  # calls others

BUSY_S = 0.02
spent = {"work": 0.0, "collecting": 0.0}
cpu = {"work": 0.0, "collecting": 0.0}
lives = {}
began = []


class Node:  # calls Node
    def __init__(self):
        self.itself = self


def on_collection(phase, facts):  # called by others
    now = clock(), time.thread_time()
    if phase == "start":
        began.append(now)
    else:
        begin = began.pop()
        spent["collecting"] += now[0] - begin[0]
        cpu["collecting"] += now[1] - begin[1]


def work():
    begin, begin_cpu = clock(), time.thread_time()
    while clock() < begin + BUSY_S:
        pass
    spent["work"] += clock() - begin
    cpu["work"] += time.thread_time() - begin_cpu


def collect():
    gc.collect()  # calls on_collection


def main():
    gc.disable()
    kept = []
    for _ in range(100000):
        kept.append(Node())  # calls __init__
    ready()  # calls others
    gc.callbacks.append(on_collection)
    begin, begin_cpu = clock(), time.thread_time()
    end = begin + argument(1, 2.0)  # calls others
    while clock() < end:
        work()  # calls work
        collect()  # calls collect
    lives["MainThread"] = {"wall_s": clock() - begin, "cpu_s": time.thread_time() - begin_cpu}
    gc.callbacks.remove(on_collection)
    report(spent=spent, cpu=cpu, lives=lives, kept=len(kept))  # calls others


if __name__ == "__main__":
    main()  # calls main
