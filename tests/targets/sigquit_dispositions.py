"""Reports how SIGQUIT is dealt with, here and in the programs that this one starts.

    sigquit_dispositions.py inherited|later

With `later` it ignores the signal itself, when it is sampled.
"""

import os
import signal
import subprocess
import sys

import _support

BIT = 1 << (signal.SIGQUIT - 1)


def is_ignored(status):
    for line in status.splitlines():
        if line.startswith("SigIgn:"):
            return bool(int(line.split()[1], 16) & BIT)
    raise ValueError(status)


def of_spawned(start):
    reading, writing = os.pipe()
    start(writing)
    os.close(writing)
    with open(reading) as file:
        return is_ignored(file.read())


def spawn(writing):
    child = os.posix_spawn(
        "/bin/cat",
        ["cat", "/proc/self/status"],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
    )
    os.waitpid(child, 0)


def fork_and_execute(writing):
    child = os.fork()
    if child == 0:
        os.dup2(writing, 1)
        os.execv("/bin/cat", ["cat", "/proc/self/status"])
    os.waitpid(child, 0)


_support.wait_for_sampler(lambda: None)
if sys.argv[1] == "later":
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    _support.spin(0.3)  # the agent looks after its handler ten times a second
with open("/proc/self/status") as file:
    own = is_ignored(file.read())
run = subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, universal_newlines=True)
os.kill(os.getpid(), signal.SIGQUIT)  # ends nobody
_support.report(
    own=own,
    subprocess=is_ignored(run.stdout),
    spawn=of_spawned(spawn),
    fork=of_spawned(fork_and_execute),
    system=os.system("grep -q '^SigIgn:.*[4567cdef]$' /proc/self/status") == 0,
)
