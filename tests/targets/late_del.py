"""A thread whose outermost function has returned while the __del__() of what it held still runs.

    late_del.py SECONDS

Takes turns at using CPU time and sleeping, by its own clock: in __del__(), which says how long.
"""

import _thread
import time

from _support import argument, ready, report


class Held:
    def __del__(self):
        begin = time.perf_counter()
        while time.perf_counter() < begin + seconds:
            turn = time.perf_counter() + 0.02
            while time.perf_counter() < turn:
                pass
            time.sleep(0.005)
        took_s.append(time.perf_counter() - begin)
        done.release()


def outermost():
    held = Held()  # noqa: F841


seconds = argument(1, 1.0)
took_s = []
done = _thread.allocate_lock()
done.acquire()
ready()
_thread.start_new_thread(outermost, ())
done.acquire()
report(took_us=took_s[0] * 1e6)
