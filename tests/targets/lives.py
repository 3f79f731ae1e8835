"""Threads that come and go, four at a time, each with its own functions and name: a third of its life busy,
the rest asleep. Each measures how long it is in its inner function, from within and from around the call:
between the two it may wait for the interpreter's lock.

    lives.py [seconds]
"""

import itertools  # calls others
import threading  # calls others
import time  # calls others

from _support import argument, clock, process_cpu_s, ready, report  # calls others

TOGETHER = 4
BUSY_S = 0.02
ASLEEP_S = 0.04
# Thread → its inner function, and the time in it by the wall clock and by its own: at least, at most.
lives = {}


def now():
    return clock(), time.thread_time()


def burn(cpu_s):
    end = time.thread_time() + cpu_s
    while time.thread_time() < end:
        pass


def note_life(name, function, outer, inner, inner_end):
    outer_end = now()  # calls now
    lives[name] = {
        "function": function,
        "wall_s": [inner_end[0] - inner[0], outer_end[0] - outer[0]],
        "cpu_s": [inner_end[1] - inner[1], outer_end[1] - outer[1]],
    }


def live_0():
    begin = now()  # calls now
    burn(BUSY_S)  # calls burn
    time.sleep(ASLEEP_S)
    return begin, now()  # calls now


def life_0(name):  # called by others
    begin = now()  # calls now
    inner = live_0()  # calls live_0
    note_life(name, "live_0", begin, *inner)  # calls note_life


def live_1():
    begin = now()  # calls now
    burn(BUSY_S)  # calls burn
    time.sleep(ASLEEP_S)
    return begin, now()  # calls now


def life_1(name):  # called by others
    begin = now()  # calls now
    inner = live_1()  # calls live_1
    note_life(name, "live_1", begin, *inner)  # calls note_life


def live_2():
    begin = now()  # calls now
    burn(BUSY_S)  # calls burn
    time.sleep(ASLEEP_S)
    return begin, now()  # calls now


def life_2(name):  # called by others
    begin = now()  # calls now
    inner = live_2()  # calls live_2
    note_life(name, "live_2", begin, *inner)  # calls note_life


def live_3():
    begin = now()  # calls now
    burn(BUSY_S)  # calls burn
    time.sleep(ASLEEP_S)
    return begin, now()  # calls now


def life_3(name):  # called by others
    begin = now()  # calls now
    inner = live_3()  # calls live_3
    note_life(name, "live_3", begin, *inner)  # calls note_life


def live_4():
    begin = now()  # calls now
    burn(BUSY_S)  # calls burn
    time.sleep(ASLEEP_S)
    return begin, now()  # calls now


def life_4(name):  # called by others
    begin = now()  # calls now
    inner = live_4()  # calls live_4
    note_life(name, "live_4", begin, *inner)  # calls note_life


def live_5():
    begin = now()  # calls now
    burn(BUSY_S)  # calls burn
    time.sleep(ASLEEP_S)
    return begin, now()  # calls now


def life_5(name):  # called by others
    begin = now()  # calls now
    inner = live_5()  # calls live_5
    note_life(name, "live_5", begin, *inner)  # calls note_life


def live_6():
    begin = now()  # calls now
    burn(BUSY_S)  # calls burn
    time.sleep(ASLEEP_S)
    return begin, now()  # calls now


def life_6(name):  # called by others
    begin = now()  # calls now
    inner = live_6()  # calls live_6
    note_life(name, "live_6", begin, *inner)  # calls note_life


def live_7():
    begin = now()  # calls now
    burn(BUSY_S)  # calls burn
    time.sleep(ASLEEP_S)
    return begin, now()  # calls now


def life_7(name):  # called by others
    begin = now()  # calls now
    inner = live_7()  # calls live_7
    note_life(name, "live_7", begin, *inner)  # calls note_life


FUNCTIONS = [life_0, life_1, life_2, life_3, life_4, life_5, life_6, life_7]


def start(number):
    function = FUNCTIONS[number % len(FUNCTIONS)]
    name = "%s of %d" % (function.__name__, number)
    thread = threading.Thread(target=function, args=(name,), name=name)  # calls others
    thread.start()  # calls others
    return thread


def main():
    seconds = argument(1, 2.0)  # calls others
    ready()  # calls others
    end = clock() + seconds
    numbers = itertools.count()
    running = []
    while clock() < end:
        running.append(start(next(numbers)))  # calls start
        if len(running) == TOGETHER:
            running.pop(0).join()  # calls others
    for thread in running:
        thread.join()  # calls others
    report(lives=lives, process_cpu_s=process_cpu_s())  # calls others


if __name__ == "__main__":
    main()  # calls main, _weakrefset.py
