"""A process that forks, and the child of it: each with functions of its own.

    forked.py HOW WHO [seconds]

HOW: `python`, by os.fork; `native`, by C code that Python knows nothing of, as servers written in C
do it. WHO is to be profiled, and measures itself: `parent` or `child`.
"""

import ctypes  # calls others
import os
import sys
import time  # calls others

from _support import argument, clock, process_cpu_s, ready, report  # calls others

SLICE_S = 0.02
spent = {}
cpu = {}
lives = {}


def note(name, begin, begin_cpu):
    spent[name] = spent.get(name, 0.0) + clock() - begin
    cpu[name] = cpu.get(name, 0.0) + time.thread_time() - begin_cpu


def spin(seconds):
    end = clock() + seconds
    while clock() < end:
        pass


def parent_third():
    begin, begin_cpu = clock(), time.thread_time()
    spin(SLICE_S)  # calls spin
    note("parent_third", begin, begin_cpu)  # calls note


def parent_rest():
    begin, begin_cpu = clock(), time.thread_time()
    spin(2 * SLICE_S)  # calls spin
    note("parent_rest", begin, begin_cpu)  # calls note


def child_third():
    begin, begin_cpu = clock(), time.thread_time()
    spin(SLICE_S)  # calls spin
    note("child_third", begin, begin_cpu)  # calls note


def child_rest():
    begin, begin_cpu = clock(), time.thread_time()
    spin(2 * SLICE_S)  # calls spin
    note("child_rest", begin, begin_cpu)  # calls note


def parent_work(seconds):
    end = clock() + seconds
    while clock() < end:
        parent_third()  # calls parent_third
        parent_rest()  # calls parent_rest


def child_work(seconds):
    end = clock() + seconds
    while clock() < end:
        child_third()  # calls child_third
        child_rest()  # calls child_rest


def measure(work, seconds):
    begin, begin_cpu = clock(), time.thread_time()
    work(seconds)  # calls parent_work, child_work
    wall_s, cpu_s = clock() - begin, time.thread_time() - begin_cpu
    lives["MainThread"] = {"function": work.__name__, "wall_s": wall_s, "cpu_s": cpu_s}


def tell():
    process_s = process_cpu_s()  # calls others
    report(spent=spent, cpu=cpu, lives=lives, process_cpu_s=process_s)  # calls others


def be_child(who, seconds):
    try:
        if who == "child":
            ready()  # calls others
            measure(child_work, seconds)  # calls measure
            tell()  # calls tell
        else:
            child_work(seconds)  # calls child_work
    finally:
        os._exit(0)


def main():
    how, who, seconds = sys.argv[1], sys.argv[2], argument(3, 2.0)  # calls others
    if who == "parent":
        ready()  # calls others
    fork = ctypes.PyDLL(None).fork if how == "native" else os.fork  # calls others
    pid = fork()  # calls others
    if pid == 0:
        be_child(who, seconds)  # calls be_child
    if who == "parent":
        measure(parent_work, seconds)  # calls measure
    os.waitpid(pid, 0)
    if who == "parent":
        tell()  # calls tell


if __name__ == "__main__":
    main()  # calls main
