"""A process whose memory is not as its version has it is refused, and goes on unharmed."""

from __future__ import annotations

import pathlib
import signal

import pytest

from attach_support import Target, catches, start_target
from interpreters import Interpreter
from runner import TARGETS, Echion
from whereabouts import Where, wait_until

# A field that Python itself does not look at meanwhile stands for one that has been moved: the file's
# name in each code object of the stack. They are given back before the end.
OTHER_LAYOUT = """
import ctypes, os, sys
sys.path.insert(0, sys.argv[1])
import _support

def fields(code):
    word = ctypes.sizeof(ctypes.c_void_p)
    for place in range(0, code.__sizeof__(), word):
        field = ctypes.c_void_p.from_address(id(code) + place)
        if field.value == id(name):
            yield field

def waits():
    _support.ready()
    return os.read(0, 100)

def spins():
    os.set_blocking(0, False)
    _support.ready()
    while True:
        for _ in range(20_000):
            pass
        try:
            return os.read(0, 100)
        except BlockingIOError:
            pass

work = globals()[sys.argv[2]]
name = work.__code__.co_filename
changed = [field for code in (work.__code__, sys._getframe().f_code) for field in fields(code)]
for field in changed:
    field.value = id(None)
work()
for field in changed:
    field.value = id(name)
_support.report(changed=len(changed))
"""
WORDS = ("its memory is not as CPython", "a code object's name is no str")


@pytest.fixture(params=["waits", "spins"])  # without the GIL, and mostly with it
def other_layout(every_python: Interpreter, tmp_path: pathlib.Path, request: pytest.FixtureRequest):
    command = [every_python.path, "-c", OTHER_LAYOUT, TARGETS, request.param]
    with start_target(tmp_path, command) as target:
        if request.param == "waits":
            target.wait_for_call(0)
        yield target
        assert target.finish()["changed"] >= 2


def foreign_descriptors(target: Target) -> set[str]:
    """Without its standard streams, and that which ctypes has of a newer libffi."""
    found = {number for number, path in target.descriptors().items() if "libffi" not in path}
    return found - {"0", "1", "2"}


def test_attaching_is_refused(echion: Echion, other_layout: Target) -> None:
    threads = other_layout.threads()
    result = echion.run(["-p", str(other_layout.pid)], "-x", "20", "-i", "100")
    assert result.returncode == 1
    text = result.output.read_text() if result.output.exists() else ""
    assert not any(line.startswith("P") for line in text.splitlines()), "a sample was taken"
    assert all(word in result.stderr for word in WORDS), result.stderr
    other_layout.wait_for_threads(threads)
    # The target's own word to the test may still be going out.
    wait_until(lambda: foreign_descriptors(other_layout) == set(), "it has its own descriptors alone")
    assert not catches(other_layout.pid, signal.SIGQUIT)


def test_looking_is_refused(echion: Echion, other_layout: Target) -> None:
    done = Where(echion.program).run(other_layout.pid)
    assert done.returncode == 1 and not done.stdout
    assert all(word in done.stderr for word in WORDS), done.stderr
