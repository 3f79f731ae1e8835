"""Threads that wait for long before they enter their names, one after the other, and end soon after.

    late_names.py [threads]
"""

import threading
import time

from _support import argument, clock, ready, report

UNNAMED_S = 0.06
NAMED_S = 0.03


class LateThread(threading.Thread):
    def _set_ident(self):  # what `threading` calls before it enters the thread
        time.sleep(UNNAMED_S)
        super()._set_ident()


def named():
    end = clock() + NAMED_S
    while clock() < end:
        pass


def main():
    count = int(argument(1, 6))
    ready()
    names = []
    for number in range(count):
        thread = LateThread(target=named, name="late %d" % number)
        thread.start()
        thread.join()
        names.append(thread.name)
    report(names=names)


if __name__ == "__main__":
    main()
