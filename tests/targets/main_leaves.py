"""Its main thread leaves by pthread_exit(), as that of a program in C may; another thread goes on.

    main_leaves.py SECONDS_BEFORE SECONDS_AFTER
"""

import ctypes
import threading

import _support

before = _support.argument(1, 0.3)
after = _support.argument(2, 0.5)
left = threading.Event()


def work_on():
    _support.wait_for_sampler()
    _support.ready()
    left.wait()
    _support.report(worked=_support.spin(after))


# Without daemon, Python's own end would wait for it: there is none here.
threading.Thread(target=work_on, daemon=True).start()
_support.spin(before)
# In a buffer of the C library, which writes it out when the last thread returns.
ctypes.CDLL(None).printf(b"%s", b"left in a buffer")
left.set()
# ctypes gives the GIL away for the length of the call.
ctypes.CDLL(None).pthread_exit(None)
