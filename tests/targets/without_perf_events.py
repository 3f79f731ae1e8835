"""Runs a command in which perf_event_open is refused, as containers do it: without_vm_readv.py.

    without_perf_events.py COMMAND…
"""

import os
import sys

from without_vm_readv import install

SYS_PERF_EVENT_OPEN = 298  # x86-64

if __name__ == "__main__":
    assert os.uname().machine == "x86_64"
    install(SYS_PERF_EVENT_OPEN)
    os.execvp(sys.argv[1], sys.argv[1:])
