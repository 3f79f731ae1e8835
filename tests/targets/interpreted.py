"""Code in two sub-interpreters: one run by the main thread, one by a thread of its own.

    interpreted.py [seconds]

Between the two the main interpreter works, too.
"""

import sys
import threading  # calls others
import time  # calls others

from _support import argument, clock, ready, report  # calls others

SOURCE = """
import time
def inside_number_{0}(end):
    while time.perf_counter() < end:
        pass
inside_number_{0}(time.perf_counter() + {1})
"""
# Function → the number of its interpreter, 0 for the main one, and its time.
inside = {}


def interpreters():
    if sys.version_info >= (3, 13):
        import _interpreters as api  # calls others
    else:
        import _xxsubinterpreters as api  # calls others
    return api


def run_inside(api, number, place, seconds):  # called by others
    source = SOURCE.format(place, seconds)
    begin, begin_cpu = clock(), time.thread_time()
    api.run_string(number, source)  # calls others
    note("inside_number_%d" % place, int(number), begin, begin_cpu)  # calls note


def note(function, number, begin, begin_cpu):
    wall_s, cpu_s = clock() - begin, time.thread_time() - begin_cpu
    inside[function] = {"number": number, "wall_s": wall_s, "cpu_s": cpu_s}


def outside(seconds):
    begin, begin_cpu = clock(), time.thread_time()
    while clock() < begin + seconds:
        pass
    note("outside", 0, begin, begin_cpu)  # calls note


def main():
    api = interpreters()  # calls interpreters
    seconds = argument(1, 1.5) / 3  # calls others
    first, second = api.create(), api.create()  # calls others
    ready()  # calls others
    run_inside(api, first, 1, seconds)  # calls run_inside
    outside(seconds)  # calls outside
    arguments = (api, second, 2, seconds)
    thread = threading.Thread(target=run_inside, args=arguments, name="runner")  # calls others
    thread.start()  # calls others
    thread.join()  # calls others
    report(inside=inside)  # calls others
    api.destroy(first)
    api.destroy(second)


if __name__ == "__main__":
    main()  # calls main, _weakrefset.py
