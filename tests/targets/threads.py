"""Threads of every origin.

    threads.py SCENE [seconds] [library of c_thread.c]
"""

import _thread
import ctypes
import sys
import threading

from _support import argument, clock, ready, report, spin

SECONDS = argument(2, 0.5)


def before_rename():
    spin(SECONDS)


def after_rename():
    spin(SECONDS)


def renamed():
    def work():
        before_rename()
        threading.current_thread().name = "second name"
        after_rename()

    thread = threading.Thread(target=work, name="first name")
    thread.start()
    thread.join()


def main_renamed():
    before_rename()
    threading.current_thread().name = "the boss"
    after_rename()


def low_level_work(done):
    spin(SECONDS)
    done.release()


def low_level():
    done = _thread.allocate_lock()
    done.acquire()
    _thread.start_new_thread(low_level_work, (done,))
    done.acquire()


def foreign_work(_):
    spin(SECONDS)
    return None


def foreign():
    """A thread of pthread_create that calls into Python."""
    callback = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(foreign_work)
    process = ctypes.CDLL(None)
    thread = ctypes.c_ulong()
    assert process.pthread_create(ctypes.byref(thread), None, callback, None) == 0
    process.pthread_join(thread, None)


def frameless_main():
    spin(SECONDS)


def frameless():
    """Threads made in C, one with a thread state, none with a Python frame."""
    library = ctypes.CDLL(sys.argv[3])
    assert library.start_c_threads() == 0
    frameless_main()
    assert library.join_c_threads() == 0


def twin_work(wake):
    wake.acquire()
    wake.release()  # whichever of the two was first


def twins():
    """Two threads of one name."""
    lock = threading.Lock()
    lock.acquire()
    threads = [threading.Thread(target=twin_work, args=(lock,), name="twin") for _ in range(2)]
    for thread in threads:
        thread.start()
    spin(SECONDS)
    lock.release()
    for thread in threads:
        thread.join()


def short_work():
    spin(0.005)


def short():
    """Threads that live 5 ms, one after the other, each with its own name."""
    count = int(SECONDS / 0.005)
    for number in range(count):
        thread = threading.Thread(target=short_work, name="short-{}".format(number))
        thread.start()
        thread.join()
    return count


INTERPRETER_SOURCE = """
import time
def inside_the_interpreter(end):
    while time.perf_counter() < end:
        pass
inside_the_interpreter(time.perf_counter() + {})
"""


def interpreters():
    """Code in a sub-interpreter, run by the main thread and then by a thread of its own."""
    if sys.version_info >= (3, 13):
        import _interpreters as api
    else:
        import _xxsubinterpreters as api
    first, second = api.create(), api.create()
    api.run_string(first, INTERPRETER_SOURCE.format(SECONDS))
    thread = threading.Thread(
        target=api.run_string, args=(second, INTERPRETER_SOURCE.format(SECONDS)), name="runner"
    )
    thread.start()
    thread.join()
    numbers = [int(first), int(second)]
    api.destroy(first)
    api.destroy(second)
    return numbers


def crowd():
    """A hundred threads that sleep, and one that works."""
    wake = threading.Event()
    threads = [
        threading.Thread(target=wake.wait, name="crowd-{}".format(number)) for number in range(100)
    ]
    for thread in threads:
        thread.start()
    begin = clock()
    spin(SECONDS)
    spent = clock() - begin
    wake.set()
    for thread in threads:
        thread.join()
    return spent


if __name__ == "__main__":
    ready()
    report(answer=globals()[sys.argv[1]](), seconds=SECONDS)
