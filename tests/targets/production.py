"""A program as busy as a service can be, which checks all that it does: it allocates, hashes,
imports, loads libraries, starts threads and processes, sleeps, and gets a signal a hundred times a
second. Runs until its standard input ends.

    production.py [light|steady]

light: half of it. steady: all but what makes its own memory grow, slowly and for long: imports, and
libraries that come and go.
"""

import hashlib
import importlib
import os
import signal
import subprocess
import sys
import threading
import time

from _support import ready, report

try:
    import _ctypes
except ImportError:  # an interpreter built without it
    _ctypes = None

stop = threading.Event()
faults = []
rounds = {}
KIND = sys.argv[1] if len(sys.argv) > 1 else ""
BLOCK = b"echion" * 10000
DIGEST = hashlib.sha256(BLOCK).hexdigest()
# None that is written in C: CPython does not give back all that such a one takes when it is imported
# again, and the program would grow by itself.
MODULES = ("json.decoder", "xml.dom.minidom", "email.parser", "csv", "fractions", "pprint")
LIBRARIES = ("libresolv.so.2", "libBrokenLocale.so.1", "libutil.so.1")


def check(is_right, what):
    if not is_right:
        faults.append(what)


def allocate():
    blocks = [bytearray(number * 37 % 70000) for number in range(100)]
    check(sum(map(len, blocks)) == sum(number * 37 % 70000 for number in range(100)), "allocate")


def digest():
    check(hashlib.sha256(BLOCK).hexdigest() == DIGEST, "digest")


def load_modules():
    for name in MODULES:
        for loaded in [one for one in sys.modules if one == name or one.startswith(name + ".")]:
            sys.modules.pop(loaded, None)
        try:
            check(importlib.import_module(name).__name__ == name, "import " + name)
        except ImportError:
            pass  # an interpreter built without it


def load_libraries():
    for name in LIBRARIES:
        try:
            _ctypes.dlclose(_ctypes.dlopen(name, os.RTLD_NOW))
        except OSError:
            pass  # a C library without it


def start_threads():
    results = []
    threads = [threading.Thread(target=results.append, args=(one,)) for one in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(sorted(results) == list(range(5)), "threads")


def keep_stacks():
    """Has as many threads at a time as there will ever be: the C library keeps their stacks."""
    threading.stack_size(1 << 18)
    all_are_here = threading.Barrier(20)
    threads = [threading.Thread(target=all_are_here.wait) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def keep_arenas():
    """Has as many small objects at a time as there will ever be, and keeps one of each arena that
    CPython takes them from (of 1 MiB, or 256 KiB before 3.10): without that it maps one more, or
    gives one back, at any time (Objects/obmalloc.c)."""
    size = 448  # and the object's header; more than 512 bytes would come from the C library
    small = [bytes([number % 256]) * size for number in range((16 << 20) // size)]
    return small[:: (128 << 10) // size]


def start_process():
    done = subprocess.run(["echo", "hello"], stdout=subprocess.PIPE)
    check((done.returncode, done.stdout) == (0, b"hello\n"), "process %r" % (done,))


def sleep():
    begin = time.monotonic()
    time.sleep(0.01)
    check(time.monotonic() - begin >= 0.0099, "sleep")


def talk():
    reader, writer = os.pipe()
    try:
        os.write(writer, b"words")
        check(os.read(reader, 10) == b"words", "pipe")
    finally:
        os.close(reader)
        os.close(writer)


def repeat(work):
    while not stop.is_set():
        work()
        rounds[work.__name__] = rounds.get(work.__name__, 0) + 1


def main():
    alarms = [0]

    def count(*_):
        alarms[0] += 1

    signal.signal(signal.SIGALRM, count)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    kinds = [allocate, allocate, digest, load_modules, start_threads, start_process, sleep, talk]
    if _ctypes:
        kinds.append(load_libraries)
    kept = []
    if KIND == "light":
        kinds = kinds[::2]
    elif KIND == "steady":
        kinds = [work for work in kinds if work not in (load_modules, load_libraries)]
        keep_stacks()
        kept = keep_arenas()
    threads = [threading.Thread(target=repeat, args=(work,)) for work in kinds]
    for thread in threads:
        thread.start()
    ready()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    report(faults=faults[:20], rounds=rounds, alarms=alarms[0], kept=len(kept))


if __name__ == "__main__":
    main()
