"""Says ready, waits for a line, then works in a thread and in a process that have come since, and
prints what rights it has."""

import os
import sys
import threading
import time

from _support import wait_for_sampler

CPU_S = 0.3


def count():
    for _ in range(10000):
        pass


def spin():
    end = time.thread_time() + CPU_S
    while time.thread_time() < end:
        count()


def spin_below():
    spin()


def main():
    wait_for_sampler(count)
    if sys.argv[1:] == ["below"]:
        spin_below()
        return
    print("ready", flush=True)
    sys.stdin.readline()
    thread = threading.Thread(target=spin, name="later")
    thread.start()
    thread.join()
    # With all descriptors, or its agent finds no way to echion.
    os.spawnv(os.P_WAIT, sys.executable, [sys.executable, __file__, "below"])
    with open("/proc/self/status") as file:
        status = dict(line.split(":", 1) for line in file)
    print(*(status[name].strip() for name in ("CapPrm", "CapEff", "CapBnd", "NoNewPrivs")), flush=True)


main()
