"""A program as busy as a service can be, which checks all that it does: it allocates, hashes,
imports, starts threads and processes, sleeps, and gets a signal a hundred times a second. Runs
until its standard input ends.

    production.py [light]
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

stop = threading.Event()
faults = []
rounds = {}
LIGHT = len(sys.argv) > 1
BLOCK = b"echion" * 10000
DIGEST = hashlib.sha256(BLOCK).hexdigest()
MODULES = ("json.decoder", "xml.dom.minidom", "email.parser", "csv", "decimal", "ctypes", "_bz2")


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


def start_threads():
    results = []
    threads = [threading.Thread(target=results.append, args=(one,)) for one in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(sorted(results) == list(range(5)), "threads")


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
    threads = [threading.Thread(target=repeat, args=(work,)) for work in kinds[:: 2 if LIGHT else 1]]
    for thread in threads:
        thread.start()
    ready()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    report(faults=faults[:20], rounds=rounds, alarms=alarms[0])


if __name__ == "__main__":
    main()
