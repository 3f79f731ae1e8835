"""Three threads with stacks of twenty frames and more; waits for its standard input to close. Once it
has said that it is ready, no frame comes or goes: what the leaves call from there on is C."""

import _thread
import os
import threading


def descend(depth, leaf):
    if depth:
        descend(depth - 1, leaf)
    else:
        leaf()


def waiter(is_there, never):
    def leaf():
        is_there.release()
        never.acquire()

    descend(20, leaf)


def main_leaf():
    os.write(1, b"ready\n")
    os.read(0, 1)


for _ in range(2):
    there, never = _thread.allocate_lock(), _thread.allocate_lock()
    there.acquire()
    never.acquire()
    threading.Thread(target=waiter, args=(there, never), daemon=True).start()
    there.acquire()
descend(20, main_leaf)
