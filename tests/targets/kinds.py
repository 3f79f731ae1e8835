"""One of every kind of code, each busy for a known time under a known stack.

    kinds.py [seconds for each]

The report lists for each scene the functions that stand one below the other, root first, down to the
busy one, and how long it was busy.
"""

import importlib
import os
import sys
import tempfile
import types

from _support import argument, clock, ready, report, spin

SECONDS = argument(1, 0.2)
scenes = []


def scene(*names):
    """Registers a function that runs the scene; `names` are its innermost functions."""

    def register(function):
        scenes.append((function, names))
        return function

    return register


# --- generators and coroutines -----------------------------------------------------------------


def generator_inner():
    yield spin(SECONDS)


def generator_outer():
    yield from generator_inner()


@scene("run_generator", "generator_outer", "generator_inner", "spin")
def run_generator():
    return list(generator_outer())


@types.coroutine
def pause():
    yield


async def coroutine_inner():
    await pause()
    return spin(SECONDS)


async def coroutine_outer():
    return await coroutine_inner()


@scene("run_coroutine", "coroutine_outer", "coroutine_inner", "spin")
def run_coroutine():
    coroutine = coroutine_outer()
    coroutine.send(None)
    try:
        coroutine.send(None)
    except StopIteration:
        pass


async def asynchronous_generator():
    yield spin(SECONDS)


async def asynchronous_consumer():
    async for _ in asynchronous_generator():
        pass


@scene("run_asynchronous", "asynchronous_consumer", "asynchronous_generator", "spin")
def run_asynchronous():
    try:
        asynchronous_consumer().send(None)
    except StopIteration:
        pass


# --- code without a file -----------------------------------------------------------------------


@scene("run_eval", "<module>", "spin")
def run_eval():
    eval("spin(SECONDS)")


@scene("run_exec", "<module>", "made_by_exec", "spin")
def run_exec():
    exec("def made_by_exec():\n    spin(SECONDS)\nmade_by_exec()", globals())


@scene("run_lambda", "<lambda>", "spin")
def run_lambda():
    (lambda: spin(SECONDS))()


@scene("run_expression", "<genexpr>", "spin")
def run_expression():
    return sum(spin(SECONDS) for _ in "1")


# --- import, through the frozen importlib --------------------------------------------------------


@scene("_call_with_frames_removed", "<module>", "spin")
def run_import():
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "slow_to_import.py"), "w") as file:
            file.write("import _support\n_support.spin({})\n".format(SECONDS))
        sys.path.insert(0, folder)
        importlib.import_module("slow_to_import")
        sys.path.remove(folder)


# --- classes and what calls back from C ---------------------------------------------------------


class Slow:
    def __init__(self):
        spin(SECONDS)

    def __lt__(self, other):
        spin(SECONDS / 3)
        return True


@scene("run_class", "__init__", "spin")
def run_class():
    Slow()


@scene("run_callback", "called_back", "spin")
def run_callback():
    def called_back(value):
        spin(SECONDS / 2)
        return value

    sorted([1, 2], key=called_back)


# --- names of one, two and four bytes a character, and awkward file names ------------------------


def make_named(name, file):
    space = {"spin": spin, "SECONDS": SECONDS}
    exec(compile("def {0}():\n    spin(SECONDS)".format(name), file, "exec"), space)
    return space[name]


NAMES = [
    ("ascii_name", "/tmp/plain.py"),
    ("caf\u00e9", "/tmp/na\u00efve.py"),
    ("\u0441\u043e\u043d\u4e2d", "/tmp/\u4e2d\u6587.py"),
    ("\U00020000\U00020001", "/tmp/\U0001f40d.py"),
    ("spaced_file", "/tmp/with space 42"),
    ("colon_file", "/tmp/a:b:c.py"),
    ("long_" + "n" * 300, "/tmp/" + "d/" * 200 + "long.py"),
]
for _name, _file in NAMES:
    scene("run_scene", _name, "spin")(make_named(_name, _file))


def run_scene(function):
    return function()


def main():
    ready()
    facts = []
    for function, names in scenes:
        begin = clock()
        run_scene(function)
        facts.append({"names": names, "seconds": clock() - begin})
    report(scenes=facts, files=dict(NAMES))


if __name__ == "__main__":
    main()
