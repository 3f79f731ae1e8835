"""Executes another program.

    executes.py once COMMAND ARGUMENT...     when it has been sampled for a moment
    executes.py always SECONDS               itself, again and again, after so long each time
"""

import os
import sys
import time

if sys.argv[1] == "once":
    import _support

    _support.ready()
    _support.spin(0.2)
    os.execv(sys.argv[2], sys.argv[2:])

if len(sys.argv) == 3:
    import _support

    _support.ready()
time.sleep(float(sys.argv[2]))
os.execv(sys.executable, [sys.executable, "-S", "-E", sys.argv[0], "always", sys.argv[2], "again"])
