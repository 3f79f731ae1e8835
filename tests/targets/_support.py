"""What all targets share. Targets run on CPython 3.8 and later, so this is written for 3.8."""

import json
import os
import sys
import threading
import time

from _sampler import count_waits, find_agent_threads, has_begun

clock = time.perf_counter
# A sampler that has waited so often since it was first looked at is past its start.
WAITS_OF_A_SAMPLER_AT_WORK = 5
# It may also tick so rarely, or end so soon, that this is not worth waiting for.
PATIENCE_S = 3.0
# One that is attached comes when somebody has read `ready` and started it.
PATIENCE_FOR_ONE_ATTACHED_S = 30.0
cpu_before_s = 0.0


def say(*words):
    """Writes one line to the test, if a test listens."""
    fifo = os.environ.get("ECHION_TEST_FIFO")
    if fifo:
        descriptor = os.open(fifo, os.O_WRONLY)
        try:
            os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
        finally:
            os.close(descriptor)


def wait_for_sampler(work=lambda: None):
    """Where echion has launched the target: goes on with `work` until its sampler has woken up a few
    times. The program does not wait for it, so that on a busy machine a short target would be over
    before; busy, as a sampler of CPU time ticks for CPU time only."""
    if "libechion" in os.environ.get("LD_PRELOAD", ""):
        wait_for_wakeups(clock() + PATIENCE_S, work)


def wait_for_attached_sampler():
    end = clock() + PATIENCE_FOR_ONE_ATTACHED_S
    # Until then the agent's threads wait for files to be read, too.
    while not has_begun() and clock() < end:
        time.sleep(0.001)
    wait_for_wakeups(end)


def wait_for_wakeups(end, work=lambda: None):
    first = {}
    while clock() < end:
        # One of the agent's threads samples; the others sleep until they are asked for something.
        for thread in find_agent_threads():
            waits = count_waits(thread)
            if waits - first.setdefault(thread, waits) >= WAITS_OF_A_SAMPLER_AT_WORK:
                return
        work()


def ready():
    """Tells the test that the target is where the test wants it. Where the test attaches a sampler
    and says so, waits for that then."""
    global cpu_before_s
    wait_for_sampler()
    say("ready", os.getpid())
    if os.environ.get("ECHION_TEST_AWAIT_SAMPLER"):
        wait_for_attached_sampler()
        cpu_before_s = time.process_time()


def process_cpu_s():
    """CPU time of the process, a sampler's included, since it can have been sampled."""
    return time.process_time() - cpu_before_s


def report(**facts):
    """Leaves what the target saw of itself for the test."""
    path = os.environ.get("ECHION_TEST_REPORT")
    if path:
        with open(path + ".new", "w") as file:
            json.dump(facts, file)
        os.replace(path + ".new", path)
    else:
        print(json.dumps(facts, indent=1))


def argument(position, default, kind=float):
    """A number from the command line."""
    return kind(sys.argv[position]) if len(sys.argv) > position else default


def spin(seconds):
    """Keeps the CPU busy for a time of the target's own clock; returns the time that it took."""
    begin = clock()
    end = begin + seconds
    while clock() < end:
        pass
    return clock() - begin


def native_id():
    return threading.get_native_id()
