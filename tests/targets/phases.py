"""Goes through phases of known length, and then stands still in one for as long as the test wants.

    phases.py busy|asleep

Says `phase <name> <seconds>` of each that is over, in CPU time if it is busy, and `phase last 0` when the last begins. Its
standard input's end ends it.
"""

import os
import select
import sys
import time

IS_BUSY = sys.argv[1] == "busy"


def say(*words):
    with open(os.environ["ECHION_TEST_FIFO"], "w") as file:
        print(*words, file=file)


clock = time.process_time if IS_BUSY else time.monotonic


def spend(seconds):
    if not IS_BUSY:
        time.sleep(seconds)
    end = clock() + (seconds if IS_BUSY else 0)
    while clock() < end:
        pass


def first():
    spend(0.4)


def second():
    spend(0.4)


def last():
    if not IS_BUSY:
        os.read(0, 1)
    while not select.select([0], [], [], 0)[0]:
        for _ in range(100000):
            pass


say("ready", os.getpid())
if sys.argv[2:] == ["attached"]:
    os.read(0, 1)  # echion is there
for phase in first, second:
    began = clock()
    phase()
    say("phase", phase.__name__, clock() - began)
say("phase", "last", 0)
last()
