"""Watches the sampler thread of this process from inside it."""

import os
import signal
import time


def find_agent_threads():
    """The kernel's ids of the threads named `echion`."""
    found = []
    for tid in os.listdir("/proc/self/task"):
        try:
            with open("/proc/self/task/{}/comm".format(tid)) as file:
                if file.read().strip() == "echion":
                    found.append(tid)
        except OSError:
            pass  # the thread ended while we looked
    return found


def has_begun():
    """Whether the agent has taken SIGQUIT, as it does right before its first sample; True where that
    is ignored, and it never does."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return any(
        int(fields[mask], 16) >> (signal.SIGQUIT - 1) & 1 for mask in ("SigCgt", "SigIgn")
    )


def find_sampler():
    """The first of them, or None without a sampler."""
    return next(iter(find_agent_threads()), None)


def count_waits(tid):
    """How often the thread has gone to sleep so far; 0 for no thread."""
    if tid is None:
        return 0
    try:
        with open("/proc/self/task/{}/status".format(tid)) as file:
            fields = dict(line.split(":", 1) for line in file)
    except OSError:
        return 0  # it has ended
    return int(fields["voluntary_ctxt_switches"])


def read_cpu_ns(tid):
    """CPU time that the thread has used, in ns, as the kernel's scheduler counts it."""
    with open("/proc/self/task/{}/schedstat".format(tid)) as file:
        return int(file.read().split()[0])


def agent_cpu_ns():
    """CPU time of all threads that find_agent_threads() names."""
    return sum(map(read_cpu_ns, find_agent_threads()))


class Sampler:
    """What the sampler uses between begin() and end(); zeros where there is none."""

    def __init__(self):
        self.tid = find_sampler()

    def _read(self):
        if self.tid is None:
            return 0, 0
        return read_cpu_ns(self.tid), count_waits(self.tid)

    def begin(self):
        self._cpu_ns, self._wakeups = self._read()
        self._process_s = time.process_time()
        self._wall_s = time.perf_counter()

    def end(self):
        wall_s = time.perf_counter() - self._wall_s
        process_s = time.process_time() - self._process_s
        cpu_ns, wakeups = self._read()
        return {
            "sampler_tid": self.tid,
            "wall_s": wall_s,
            "process_cpu_s": process_s,
            "sampler_cpu_ns": cpu_ns - self._cpu_ns,
            "wakeups": wakeups - self._wakeups,
        }
