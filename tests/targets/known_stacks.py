"""Only a known set of stacks can exist here.

    known_stacks.py [seconds] [threads]

Its marks (_marks.py) tell a checker every stack that can exist: a frame's line belongs to its
function, and a caller stands on a line that is marked with its callee. Two chains of calls share no
function, so a stack mixed from two moments shows.

The work is built to be hard to copy while it runs: calls of some 50 ns, generators, coroutines,
recursion, exceptions, and (with threads) an interpreter lock that is passed around all the time.
Without threads the sections' times are measured, to compare a profile's shares with; with threads
each thread's life.
"""

import sys
import threading  # calls others
import time
import types  # calls others

from _marks import Watch, describe  # calls others
from _support import argument, clock, process_cpu_s, ready, report  # calls others

# --- calls of some 50 ns, in two chains --------------------------------------------------------


def alpha_leaf(value):
    return value


def alpha_four(value):
    return alpha_leaf(value)  # calls alpha_leaf


def alpha_three(value):
    return alpha_four(value)  # calls alpha_four


def alpha_two(value):
    kept = alpha_three(value)  # calls alpha_three
    return alpha_leaf(kept)  # calls alpha_leaf


def alpha_one(value):
    return alpha_two(value)  # calls alpha_two


def beta_leaf(value):
    return value


def beta_three(value):
    beta_leaf(value)  # calls beta_leaf
    return beta_leaf(value)  # calls beta_leaf


def beta_two(value, more=None):
    return beta_three(value)  # calls beta_three


def beta_one(value):
    for _ in (1, 2):
        beta_two(value, more=value)  # calls beta_two
    return value


def section_calls(count):
    for number in range(count):
        alpha_one(number)  # calls alpha_one
        beta_one(number)  # calls beta_one


# --- no calls at all ---------------------------------------------------------------------------


def section_flat(count):
    total = 0
    for number in range(count):
        total += number * number % 7
        total ^= number
    return total


# --- generators --------------------------------------------------------------------------------


def generate_leaf(count):
    for number in range(count):
        yield number


def generate_middle(count):
    yield from generate_leaf(count)  # calls generate_leaf


def generate_outer(count):
    for number in generate_middle(count):  # calls generate_middle
        yield alpha_leaf(number)  # calls alpha_leaf


def generate_echo():
    got = None
    while True:
        got = yield got


def section_generators(count):
    for number in range(count):
        for _ in generate_outer(6):  # calls generate_outer
            beta_leaf(number)  # calls beta_leaf
        echo = generate_echo()  # calls generate_echo
        next(echo)  # calls generate_echo
        echo.send(number)  # calls generate_echo
        echo.close()  # calls generate_echo


# --- recursion ---------------------------------------------------------------------------------


def descend(depth):
    if depth == 0:
        return alpha_leaf(depth)  # calls alpha_leaf
    return descend(depth - 1)  # calls descend


def odd(number):
    return number != 0 and even(number - 1)  # calls even


def even(number):
    return number == 0 or odd(number - 1)  # calls odd


def section_recursion(count):
    for _ in range(count):
        descend(40)  # calls descend
        even(20)  # calls even


# --- exceptions --------------------------------------------------------------------------------


class Managed:  # calls Managed
    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        return kind is KeyError


def throw(depth):
    if depth:
        return throw(depth - 1)  # calls throw
    raise ValueError


def guard(depth):
    try:
        throw(depth)  # calls throw
    finally:
        beta_leaf(depth)  # calls beta_leaf


def section_exceptions(count):
    for number in range(count):
        try:
            guard(5)  # calls guard
        except ValueError:
            alpha_leaf(number)  # calls alpha_leaf
        with Managed():  # calls __enter__, __exit__
            alpha_leaf(number)  # calls alpha_leaf, __exit__
        with Managed():  # calls __enter__, __exit__
            raise KeyError  # calls __exit__


# --- methods that Python runs by itself --------------------------------------------------------


class Number:  # calls Number
    def __init__(self, value):
        self.value = value

    @property
    def half(self):
        return self.value / 2

    def __add__(self, other):
        return self.value + other.value

    def __call__(self, value):
        return beta_leaf(value)  # calls beta_leaf

    def __del__(self):
        self.value = None


def sort_key(value):
    return -value


def section_objects(count):
    for number in range(count):
        left = Number(number)  # calls __init__, __del__
        right = Number(number)  # calls __init__, __del__
        left + right  # calls __add__
        left.half  # calls half
        left(number)  # calls __call__
        sorted((1, 3, 2), key=sort_key)  # calls sort_key
        [alpha_leaf(one) for one in (1, 2, 3)]  # calls alpha_leaf, <listcomp>
        list(map(beta_leaf, (1, 2, 3)))  # calls beta_leaf
    del left, right  # calls __del__


# --- coroutines --------------------------------------------------------------------------------


@types.coroutine  # calls others
def suspend(value):  # calls others
    return (yield value)


async def await_leaf(value):
    beta_leaf(value)  # calls beta_leaf
    return await suspend(value)  # calls suspend


async def await_middle(value):
    return await await_leaf(value)  # calls await_leaf


async def await_outer(value):
    await await_middle(value)  # calls await_middle
    return alpha_one(value)  # calls alpha_one


def section_coroutines(count):
    for number in range(count):
        outer = await_outer(number)  # calls await_outer
        outer.send(None)  # calls await_outer
        try:
            outer.send(number)  # calls await_outer
        except StopIteration:
            pass


# --- the run -----------------------------------------------------------------------------------

SECTIONS = {
    "section_flat": (section_flat, 30000),
    "section_calls": (section_calls, 4000),
    "section_generators": (section_generators, 1000),
    "section_recursion": (section_recursion, 500),
    "section_exceptions": (section_exceptions, 700),
    "section_objects": (section_objects, 700),
    "section_coroutines": (section_coroutines, 1500),
}
# Each visit's time, each section's CPU time, and of the whole of these rounds.
visits = {name: [] for name in SECTIONS}  # calls <dictcomp>
cpu = {name: 0.0 for name in SECTIONS}  # calls <dictcomp>
# Thread → the time that it worked, on the wall clock and on its own.
lives = {}


def note_life(name, begin, begin_cpu):
    lives[name] = {"wall_s": clock() - begin, "cpu_s": time.thread_time() - begin_cpu}


def rounds_alone(end):
    started, started_cpu = clock(), time.thread_time()
    while clock() < end:
        for name, (section, count) in SECTIONS.items():
            begin, begin_cpu = clock(), time.thread_time()
            section(count)  # calls section_flat, section_calls, section_generators, section_recursion, section_exceptions, section_objects, section_coroutines
            visits[name].append(clock() - begin)
            cpu[name] += time.thread_time() - begin_cpu
    note_life("MainThread", started, started_cpu)  # calls note_life


def worker(end, lock, name):  # called by others
    begin, begin_cpu = clock(), time.thread_time()
    while clock() < end:
        for section, count in SECTIONS.values():
            for _ in range(10):
                section(count // 100)  # calls section_flat, section_calls, section_generators, section_recursion, section_exceptions, section_objects, section_coroutines
                with lock:
                    beta_leaf(count)  # calls beta_leaf
                time.sleep(0)
    note_life(name, begin, begin_cpu)  # calls note_life


def rounds_together(end, count):
    lock = threading.Lock()
    sys.setswitchinterval(0.0005)
    threads = []
    for number in range(count):
        name = "worker-%d" % number
        arguments = (end, lock, name)
        threads.append(threading.Thread(target=worker, args=arguments, name=name))  # calls others
    for thread in threads:
        thread.start()  # calls others
    worker(end, lock, "MainThread")  # calls worker
    for thread in threads:
        thread.join()  # calls others


def main():
    seconds = argument(1, 4.0)  # calls others
    threads = argument(2, 0, int)  # calls others
    end = clock() + seconds
    if threads:
        rounds_together(end, threads - 1)  # calls rounds_together, others
    else:
        rounds_alone(end)  # calls rounds_alone


# --- the marks themselves -----------------------------------------------------------------------


def check_marks():
    """Runs every section once under the interpreter's own tracing: are the marks complete?"""
    with Watch(__file__) as watch:
        for section, _ in SECTIONS.values():
            section(3)  # calls section_flat, section_calls, section_generators, section_recursion, section_exceptions, section_objects, section_coroutines
    return watch.unmarked


if __name__ == "__main__":
    if sys.argv[1:] == ["--check-marks"]:
        report(unmarked=check_marks())
    else:
        ready()  # calls others
        main()  # calls main
        facts = {"visits": visits, "cpu": cpu, "lives": lives}
        facts["possible"] = describe(__file__)  # calls others
        report(process_cpu_s=process_cpu_s(), **facts)  # calls others
