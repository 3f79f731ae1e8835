"""Sub-interpreters that the main thread makes, and two other threads run code in, one after the other. Each
waits there again and again, and then in its own interpreter.

    in_turns.py [interpreters]
"""

import threading
import time

from _support import argument, clock, ready, report

TURN_S = 0.2
CODE = """
import time
def inside_{name}():
    end = time.perf_counter() + {seconds}
    while time.perf_counter() < end:
        time.sleep(0.001)
inside_{name}()
"""


def interpreters():
    try:
        import _interpreters as api
    except ImportError:
        import _xxsubinterpreters as api
    return api


def main():
    count = int(argument(1, 2))
    api = interpreters()
    inside = {"inside_first": 0.0, "inside_second": 0.0}

    def take_turn(name, number):
        begin = clock()
        api.run_string(number, CODE.format(name=name, seconds=TURN_S))
        inside["inside_" + name] += clock() - begin

    def first(number, left, ended):
        take_turn("first", number)
        left.set()
        ended.wait()

    def second(number, left, ended):
        left.wait()
        time.sleep(TURN_S)
        take_turn("second", number)
        ended.set()

    ready()
    for _ in range(count):
        arguments = (api.create(), threading.Event(), threading.Event())
        threads = [threading.Thread(target=work, args=arguments) for work in (first, second)]
        for thread in threads:
            thread.start()
        for thread in reversed(threads):
            thread.join()
    report(inside=inside, least_s=count * TURN_S)


if __name__ == "__main__":
    main()
