"""Up to CPython 3.10 the kernel's numbers of threads are found in the C library's records of them,
where other things are as small: the upper half of an address, a count."""

import json
import platform
import shutil
import subprocess

import pytest

from interpreters import find_interpreters
from runner import TIMEOUT_S

# Of all shared libraries' and threads' addresses, where the kernel does not place them at random
# (x86-64): a number that a thread can have, too.
UPPER_HALF = 0x7FFF
# Numbers that echion's processes and threads take up to the last thread of the program.
NUMBERS = 12
SLEEP_US = 100_000
BUSY = """
import json, threading, time
ends_at = time.monotonic() + 0.1
def works():
    while time.monotonic() < ends_at:
        pass
worker = threading.Thread(target=works)
worker.start()
time.sleep(0.1)
worker.join()
"""
LOOKS = """
import json, subprocess, sys, threading
ids = {}
done = threading.Event()
begun = threading.Barrier(3)
def waits():
    ids[threading.current_thread().name] = threading.get_native_id()
    begun.wait()
    done.wait()
for name in ("one", "two"):
    threading.Thread(target=waits, name=name).start()
ids["MainThread"] = threading.get_native_id()
begun.wait()
where = subprocess.run([sys.argv[1], "-w", str(ids["MainThread"]), "--json"], stdout=subprocess.PIPE)
done.set()
print(json.dumps([ids, json.loads(where.stdout)]))
"""


@pytest.fixture
def old_python():
    found = [python for python in find_interpreters() if python.version < (3, 11)]
    if not found:
        pytest.skip("no CPython 3.8 to 3.10")
    return found[-1]


@pytest.fixture
def numbered(needs_root):
    """In front of a command: the next number that its processes and threads are given, in a PID
    namespace of its own."""
    if platform.machine() != "x86_64":
        pytest.skip("the addresses are x86-64's")
    if shutil.which("unshare") is None or shutil.which("setarch") is None:
        pytest.skip("needs unshare(1) and setarch(8)")

    def wrap(number: int) -> list[str]:
        give = f'echo {number - 1} > /proc/sys/kernel/ns_last_pid && "$@"; exit $?'
        return [
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *("setarch", "-R", "sh", "-c", give, "sh"),
        ]

    return wrap


@pytest.mark.parametrize("before", range(NUMBERS))
def test_no_number_is_taken_for_another(before, echion, engine, old_python, numbered):
    command = [old_python.path, "-c", BUSY]
    wrap = numbered(UPPER_HALF - before)
    profile = echion.run(command, "--engine", engine, wrap=wrap).check().profile
    waiting = profile.total(
        lambda sample: sample.thread == "MainThread" and sample.names == ("<module>",)
    )
    working = profile.total(lambda sample: sample.names[-1:] == ("works",))
    missed = profile.figure("missed_us")
    assert waiting + missed > 0.9 * SLEEP_US, [(one.names, one.metric) for one in profile.samples]
    assert working + missed > 0.5 * SLEEP_US, [(one.names, one.metric) for one in profile.samples]


def test_where_tells_threads_apart(build_dir, old_python, numbered):
    """The main thread's number is in each one's record, for the upper half of an address."""
    command = [old_python.path, "-c", LOOKS, build_dir / "echion"]
    done = subprocess.run(
        [*numbered(UPPER_HALF), *command], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    ids, answer = json.loads(done.stdout)
    assert ids["MainThread"] == UPPER_HALF
    assert {one["name"]: one["native_id"] for one in answer["threads"]} == ids
