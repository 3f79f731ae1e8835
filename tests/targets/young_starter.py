"""Threads that start others as soon as they have begun themselves, time after time, and wait for them.

    young_starter.py ROUNDS
"""

import threading
import time

from _support import argument, ready, report

WORKERS = 4
SECONDS = 0.06
spent = {}


def works():
    begin = time.perf_counter()
    while time.perf_counter() < begin + SECONDS:
        pass
    time.sleep(SECONDS)
    spent[threading.current_thread().name] = time.perf_counter() - begin


def starts(number):
    begin = time.perf_counter()
    workers = [
        threading.Thread(target=works, name="worker-%d-of-%d" % (i, number))
        for i in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    spent[threading.current_thread().name] = time.perf_counter() - begin


ready()
for number in range(argument(1, 5, int)):
    starter = threading.Thread(target=starts, args=(number,), name="starter-%d" % number)
    starter.start()
    starter.join()
report(spent_s=spent)
