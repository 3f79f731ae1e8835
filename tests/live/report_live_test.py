"""Three threads with stacks of twenty frames and more; waits for its standard input to close."""

import sys
import threading


def descend(depth, wait):
    if depth:
        descend(depth - 1, wait)
    else:
        wait()


def waiter(is_there):
    descend(20, lambda: (is_there.set(), threading.Event().wait()))


for _ in range(2):
    there = threading.Event()
    threading.Thread(target=waiter, args=(there,), daemon=True).start()
    there.wait()
print("ready", flush=True)
descend(20, sys.stdin.read)
