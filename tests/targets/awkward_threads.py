"""A target with threads where they are hard or dangerous to borrow.

    awkward_threads.py LIBRARY KIND

LIBRARY is awkward_threads.c, compiled. Except for `spin…` the main thread ends when the test closes
standard input, or sends a byte.
"""

import ctypes
import os
import sys
import threading

from _support import ready, report

library = ctypes.CDLL(sys.argv[1])
libc = ctypes.CDLL(None)
KIND = sys.argv[2]
FUTEX = "202"


def wait():
    """Without Python's retrying."""
    byte = ctypes.create_string_buffer(1)
    return libc.read(0, byte, 1), byte.value.decode()


def call_of(tid):
    with open(f"/proc/self/task/{tid}/syscall") as file:
        return file.read().split()[0]


def held_lock():
    assert library.hold_stack_lock() == 0
    # It holds the lock once it waits for the other thread's answer.
    while not any(call_of(tid) == FUTEX for tid in os.listdir("/proc/self/task")):
        pass
    ready()
    got = wait()
    library.open_gate()
    report(got=got)


def vfork():
    """A second thread sleeps uninterruptibly until the file that the test names is written to."""
    numbers, number = os.pipe()
    gate = os.open(sys.argv[3], os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(gate, True)
    got = []
    sleeper = threading.Thread(target=lambda: got.append(library.sleep_in_vfork(gate, number)))
    sleeper.start()
    child = int.from_bytes(os.read(numbers, 4), sys.byteorder)
    with open(sys.argv[3] + ".child", "w") as file:
        file.write(f"{child} {sleeper.native_id}")
    ready()
    waited = wait()
    sleeper.join()
    report(got=got, waited=waited)


def signal_stack():
    ready()
    report(changed=library.wait_on_signal_stack(0, int(sys.argv[3])))


def spin():
    arguments = [one.encode() for one in sys.argv[4:]] + [None]
    array = (ctypes.c_char_p * len(arguments))(*arguments)
    ready()
    library.spin_nowhere(ctypes.c_long(int(sys.argv[3])), array)


{"held_lock": held_lock, "vfork": vfork, "signal_stack": signal_stack, "spin": spin}[KIND]()
