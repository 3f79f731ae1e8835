"""Threads that use CPU time in different ways, and say how much they used by their own clocks.

    cpu_figures.py KIND SECONDS

busy: three threads, all the time. bursts: two threads, bursts of 0.2 ms. duty: one thread, 5 % of
the time. short: threads of 5 ms, one after the other.

All times are in us. `main_us` is the main thread's when `rusage_us` is read: then it ends Python. `cpu_us` of a thread ends when it reads its clock; `all_threads_us` has also what
the kernel and the interpreter need to end them: what the process used but its main thread and a sampler.
"""

import resource
import threading
import time

from _sampler import agent_cpu_ns
from _support import argument, native_id, ready, report

figures = {}


def burn(cpu_s):
    end = time.thread_time() + cpu_s
    while time.thread_time() < end:
        pass


def busy(seconds):
    burn(seconds / 3)


def bursts(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        burn(0.0002)
        time.sleep(0.0003)


def duty(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        burn(0.001)
        time.sleep(0.019)


def short(_seconds):
    burn(0.005)


def run(work, seconds):
    work(seconds)
    name = threading.current_thread().name
    figures[name] = {"tid": native_id(), "cpu_us": time.thread_time_ns() // 1000}


def run_together(work, seconds, count):
    threads = [
        threading.Thread(target=run, args=(work, seconds), name="%s %d" % (work.__name__, i))
        for i in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def read_clocks():
    """CPU time so far of the process, this thread and a sampler, in ns."""
    return time.process_time_ns(), time.thread_time_ns(), agent_cpu_ns()


def main():
    kind, seconds = argument(1, "busy", str), argument(2, 2.0)
    ready()
    begin, begin_main, begin_agent = read_clocks()
    if kind == "short":
        for i in range(int(seconds / 0.01)):
            thread = threading.Thread(target=run, args=(short, 0), name="short %d" % i)
            thread.start()
            thread.join()
    else:
        work, count = {"busy": (busy, 3), "bursts": (bursts, 2), "duty": (duty, 1)}[kind]
        run_together(work, seconds, count)
    end, end_main, end_agent = read_clocks()
    process_us = (end - begin) // 1000
    all_threads_us = process_us - (end_main - begin_main + end_agent - begin_agent) // 1000
    usage = resource.getrusage(resource.RUSAGE_SELF)
    rusage_us = round((usage.ru_utime + usage.ru_stime) * 1e6)
    report(
        threads=figures,
        all_threads_us=all_threads_us,
        process_us=process_us,
        rusage_us=rusage_us,
        main_us=time.thread_time_ns() // 1000,
    )


main()
