"""Known shares of time: three functions at 10, 30 and 60 %, one thread that sleeps beside them.
Marked (_marks.py), so that a checker knows every stack that can exist.

    shares.py [seconds]

Every function keeps its own account with the program's clock, so that a test can compare the
profile with what the program itself saw, whatever the machine did to both of them.
"""

import threading  # calls others
import time

from _support import argument, clock, process_cpu_s, ready, report  # calls others

SLICE_S = 0.05  # of one round
spent = {"ten": 0.0, "thirty": 0.0, "sixty": 0.0}
cpu = {"ten": 0.0, "thirty": 0.0, "sixty": 0.0}


def ten():
    begin, begin_cpu = clock(), time.thread_time()
    while clock() < begin + 0.1 * SLICE_S:
        pass
    spent["ten"] += clock() - begin
    cpu["ten"] += time.thread_time() - begin_cpu


def thirty():
    begin, begin_cpu = clock(), time.thread_time()
    while clock() < begin + 0.3 * SLICE_S:
        pass
    spent["thirty"] += clock() - begin
    cpu["thirty"] += time.thread_time() - begin_cpu


def sixty():
    begin, begin_cpu = clock(), time.thread_time()
    while clock() < begin + 0.6 * SLICE_S:
        pass
    spent["sixty"] += clock() - begin
    cpu["sixty"] += time.thread_time() - begin_cpu


# Of the thread that sleeps and of the rounds, and the CPU time of these.
lifetimes = {}


def sleeper(wake):  # called by others
    begin = clock()
    wake.acquire()
    lifetimes["sleeper"] = clock() - begin


def work(seconds):
    begin, begin_cpu = clock(), time.thread_time()
    while clock() < begin + seconds:
        ten()  # calls ten
        thirty()  # calls thirty
        sixty()  # calls sixty
    lifetimes["work"] = clock() - begin
    lifetimes["work_cpu"] = time.thread_time() - begin_cpu


def main():
    seconds = argument(1, 4.0)  # calls others
    ready()  # calls others
    wake = threading.Lock()
    wake.acquire()
    thread = threading.Thread(target=sleeper, args=(wake,), name="sleeper")  # calls others
    thread.start()  # calls others
    work(seconds)  # calls work
    wake.release()
    thread.join()  # calls others
    process_s = process_cpu_s()  # calls others
    report(spent=spent, cpu=cpu, lifetimes=lifetimes, process_cpu_s=process_s)  # calls others


if __name__ == "__main__":
    main()  # calls main, _weakrefset.py
