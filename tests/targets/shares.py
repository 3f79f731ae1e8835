"""Known shares of time: three functions at 10, 30 and 60 %, one thread that sleeps beside them.

    shares.py [seconds]

Every function keeps its own account with the program's clock, so that a test can compare the
profile with what the program itself saw, whatever the machine did to both of them.
"""

import threading

from _support import argument, clock, ready, report

SLICE_S = 0.05  # of one round
spent = {"ten": 0.0, "thirty": 0.0, "sixty": 0.0}


def ten():
    begin = clock()
    while clock() < begin + 0.1 * SLICE_S:
        pass
    spent["ten"] += clock() - begin


def thirty():
    begin = clock()
    while clock() < begin + 0.3 * SLICE_S:
        pass
    spent["thirty"] += clock() - begin


def sixty():
    begin = clock()
    while clock() < begin + 0.6 * SLICE_S:
        pass
    spent["sixty"] += clock() - begin


lifetimes = {}


def sleeper(wake):
    begin = clock()
    wake.acquire()
    lifetimes["sleeper"] = clock() - begin


def main():
    seconds = argument(1, 4.0)
    ready()
    wake = threading.Lock()
    wake.acquire()
    thread = threading.Thread(target=sleeper, args=(wake,), name="sleeper")
    thread.start()
    begin = clock()
    while clock() < begin + seconds:
        ten()
        thirty()
        sixty()
    lifetimes["work"] = clock() - begin
    wake.release()
    thread.join()
    report(spent=spent, lifetimes=lifetimes)


if __name__ == "__main__":
    main()
