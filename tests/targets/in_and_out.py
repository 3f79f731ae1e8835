"""Two threads, each of which goes into a sub-interpreter of its own and out of it, and sleeps in both."""

import threading

from _support import clock, ready, report
from interpreted import interpreters

import time

ROUNDS = 4
SLEEP_S = 0.06
SOURCE = f"""
import time
def sleep_inside():
    time.sleep({SLEEP_S})
sleep_inside()
"""
outside = []


def sleep_outside():
    begin = clock()
    time.sleep(2 * SLEEP_S)
    outside.append(clock() - begin)


def go(api, number):
    for _ in range(ROUNDS):
        api.run_string(number, SOURCE)
        sleep_outside()


def main():
    api = interpreters()
    numbers = [api.create(), api.create()]
    threads = [threading.Thread(target=go, args=(api, number)) for number in numbers]
    ready()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report(outside_s=sum(outside), inside_s=2 * ROUNDS * SLEEP_S)
    for number in numbers:
        api.destroy(number)


if __name__ == "__main__":
    main()
