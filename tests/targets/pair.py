"""Two threads that are busy at once from their first moment, each under its own name and function. Each
measures how long it is in that, from within and from around the call.

    pair.py [seconds of CPU time of each]
"""

import threading  # calls others
import time  # calls others

from _support import argument, clock, process_cpu_s, ready, report  # calls others

# Thread → its inner function, and the time in it by the wall clock and by its own: at least, at most.
lives = {}


def now():
    return clock(), time.thread_time()


def first_work(cpu_s):
    begin = now()  # calls now
    while time.thread_time() < begin[1] + cpu_s:
        pass
    return begin, now()  # calls now


def second_work(cpu_s):
    begin = now()  # calls now
    while time.thread_time() < begin[1] + cpu_s:
        pass
    return begin, now()  # calls now


def note_life(name, function, outer, inner, inner_end):
    outer_end = now()  # calls now
    lives[name] = {
        "function": function,
        "wall_s": [inner_end[0] - inner[0], outer_end[0] - outer[0]],
        "cpu_s": [inner_end[1] - inner[1], outer_end[1] - outer[1]],
    }


def first(cpu_s):  # called by others
    begin = now()  # calls now
    inner = first_work(cpu_s)  # calls first_work
    note_life("first", "first_work", begin, *inner)  # calls note_life


def second(cpu_s):  # called by others
    begin = now()  # calls now
    inner = second_work(cpu_s)  # calls second_work
    note_life("second", "second_work", begin, *inner)  # calls note_life


def main():
    cpu_s = argument(1, 0.2)  # calls others
    ready()  # calls others
    threads = []
    for work in (first, second):
        name = work.__name__
        threads.append(threading.Thread(target=work, args=(cpu_s,), name=name))  # calls others
    for thread in threads:
        thread.start()  # calls others
    for thread in threads:
        thread.join()  # calls others
    report(lives=lives, process_cpu_s=process_cpu_s())  # calls others


if __name__ == "__main__":
    main()  # calls main, _weakrefset.py
