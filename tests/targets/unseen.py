"""Works where its sampler is kept from looking: says where it is, and goes on at each line of its
standard input.

    unseen.py middle          works, and waits to be looked at again
    unseen.py end             works, and ends without more ado
    unseen.py waits           waits in another function, without work
    unseen.py thread          has a thread live its whole life
    unseen.py late            has a thread begin at the end of it, and waits to be looked at again
    unseen.py start           works from its first line on, and waits
"""

import os
import sys
import threading
import time

from _support import clock, ready, report, say

UNSEEN_S = 0.3
lives = {}


def wait_for_a_line(word):
    say(word)
    sys.stdin.readline()


def note(name, begin, begin_cpu):
    lives[name] = {"wall_s": clock() - begin, "cpu_s": time.thread_time() - begin_cpu}


def unseen():
    begin, begin_cpu = clock(), time.thread_time()
    while time.thread_time() < begin_cpu + UNSEEN_S:
        pass
    note("unseen", begin, begin_cpu)


def waits():
    wait_for_a_line("over")


def late(begun, told):
    begin, begin_cpu = clock(), time.thread_time()
    begun.release()
    told.acquire()
    note("late", begin, begin_cpu)


def taken_lock():
    lock = threading.Lock()
    lock.acquire()
    return lock


def main(what):
    if what != "start":
        ready()
        wait_for_a_line("seen")
    if what == "thread":
        thread = threading.Thread(target=unseen, name="unseen")
        thread.start()
        thread.join()
    elif what == "waits":
        waits()
    else:
        unseen()
    if what == "end":
        report(lives=lives)
        os._exit(0)
    if what == "late":
        begun, told = taken_lock(), taken_lock()
        thread = threading.Thread(target=late, args=(begun, told), name="late")
        thread.start()
        begun.acquire()
    if what != "waits":
        wait_for_a_line("over")
    if what == "start":
        ready()
    if what == "late":
        told.release()
        thread.join()
    report(lives=lives)


if __name__ == "__main__":
    main(sys.argv[1])
