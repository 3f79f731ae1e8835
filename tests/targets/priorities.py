"""Reports the nice values of its threads while it is sampled, the priorities of those that are real-time
threads, and the nice value of a child that it starts."""

import os
import subprocess

from _support import ready, report


def nice_values():
    found = {}
    for tid in os.listdir("/proc/self/task"):
        with open("/proc/self/task/{}/comm".format(tid)) as file:
            found[file.read().strip()] = os.getpriority(os.PRIO_PROCESS, int(tid))
    return found


def realtime():
    found = {}
    for tid in os.listdir("/proc/self/task"):
        if os.sched_getscheduler(int(tid)) & ~os.SCHED_RESET_ON_FORK != os.SCHED_OTHER:
            with open("/proc/self/task/{}/comm".format(tid)) as file:
                found[file.read().strip()] = os.sched_getparam(int(tid)).sched_priority
    return found


if __name__ == "__main__":
    ready()
    report(threads=nice_values(), realtime=realtime(), child=int(subprocess.check_output(["nice"])))
