"""Uses CPU time that is easily lost, or counted twice.

    cpu_kept.py exec COUNT SECONDS     a thread uses SECONDS and ends, then so does the main thread, then
                                       the program starts itself anew (exec), COUNT times over
    cpu_kept.py rare COUNT SECONDS     COUNT threads use SECONDS each, so far apart that the kernel's
                                       place for each is given to the next
    cpu_kept.py alone 1 SECONDS        the main thread does

Reports the CPU time of the process, and of the threads in all, in seconds.
"""

import os
import sys
import threading
import time

from _support import report

# Longer than the kernel's place of a thread that has ended is kept (ECHION_SLOT_QUARANTINE_NS).
APART_S = 1.1


def burn(cpu_s):
    end = time.thread_time() + cpu_s
    while time.thread_time() < end:
        pass


def in_a_thread(cpu_s):
    used = []

    def work():
        burn(cpu_s)
        used.append(time.thread_time())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return used[0]


def main():
    kind, count, cpu_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    threads_s = 0.0
    if kind == "rare":
        for _ in range(count):
            threads_s += in_a_thread(cpu_s)
            time.sleep(APART_S)
    elif kind == "alone":
        burn(cpu_s)
    else:
        in_a_thread(cpu_s)
        burn(cpu_s)
        if count > 1:
            os.execv(sys.executable, [sys.executable, __file__, kind, str(count - 1), str(cpu_s)])
    report(process_s=time.process_time(), threads_s=threads_s)


main()
