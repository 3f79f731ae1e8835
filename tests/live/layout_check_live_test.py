"""A program that computes in a thread and waits in another, with a stack that is not short."""

import sys
import threading


def waits(depth):
    if depth:
        return waits(depth - 1)
    sys.stdin.read()


def computes():
    while True:
        sum(item * item for item in range(50))


threading.Thread(target=computes, daemon=True).start()
print("version", *sys.version_info[:3], sep="\t")
print("ready", flush=True)
waits(20)
