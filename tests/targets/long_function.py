"""A function of so many lines that its table of lines is larger than what is sent as a whole.

    long_function.py [wait]

It sleeps in its last line for half a second or, with `wait`, until its standard input ends.
"""

import os  # the function's
import sys
import time  # the function's

from _support import ready, report

FILE = "/virtual/long.py"
LINES = 200


def pad_locations(code):
    """The table of 3.11 and later with each instruction's own entry (Objects/locations.md: the long
    form), whose number for the line has a long tail of zeros."""
    table = bytearray()
    line = code.co_firstlineno
    for position in code.co_positions():
        if position[0] is None:
            table.append(0x80 | 15 << 3)
            continue
        delta = position[0] - line
        line = position[0]
        number = -delta << 1 | 1 if delta < 0 else delta << 1
        table.append(0x80 | 14 << 3)
        while number >= 64:
            table.append(0x40 | number & 63)
            number >>= 6
        table.append(0x40 | number)
        table += b"\x40" * (2 << 10) + b"\0" + b"\0\0\0"
    return bytes(table)


def make(ending):
    """A true one takes seconds to compile: this is a short one, its table made long."""
    lines = ["def long_function(leave):", "    t = 0", "    if leave:", "        return"]
    lines += ["    t = t + 1"] * LINES
    lines.append("    " + ending)
    place = {"os": os, "time": time, "ready": ready}
    exec(compile("\n".join(lines), FILE, "exec"), place)
    function, last_line = place["long_function"], len(lines)
    code = function.__code__
    nothing = bytes(2 << 20)  # in 3.10 and before, entries that change nothing
    if sys.version_info >= (3, 11):
        function.__code__ = code.replace(co_linetable=pad_locations(code))
    elif sys.version_info >= (3, 10):
        function.__code__ = code.replace(co_linetable=nothing + code.co_linetable)
    else:
        function.__code__ = code.replace(co_lnotab=nothing + code.co_lnotab)
    return function, last_line


def table_bytes(code):
    return len(code.co_linetable if hasattr(code, "co_linetable") else code.co_lnotab)


def main():
    function, last_line = make("ready(); " + ("os.read(0, 1)" if sys.argv[1:] else "time.sleep(0.5)"))
    assert table_bytes(function.__code__) > 3 << 19
    function(False)
    report(last_line=last_line)


main()
