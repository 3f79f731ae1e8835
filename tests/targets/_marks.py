"""Which stacks can exist in a program that marks its calls; for targets and their checkers.

    _marks.py FILE                       prints the description of FILE for this interpreter, as JSON
    _marks.py --check FILE [ARGUMENT…]   runs FILE under the interpreter's own tracing, and reports the
                                         calls that are not marked

A line that runs other functions of its own file says so: `# calls a, b`. `others` stands for the
functions of any other file, and a word with a dot or a `<` for those of files of that name
(`threading.py`, `*.html`). A function that other files' code may run says so in its first line:
`# called by others`. From these marks, and from the lines that the compiler gives each function,
a checker (tests/integration/possible.py) knows every stack that can exist.
"""

import fnmatch
import json
import os
import re
import runpy
import sys
import threading
import types

CALLED = "  # called by others"


def find_calls(source):
    """Line → the functions, or patterns of files, that it may run."""
    calls = {}
    for number, line in enumerate(source.splitlines(), 1):
        code, mark, names = line.partition("  # calls ")
        if mark and not code.startswith('"""'):
            calls[number] = [name.strip() for name in names.split(",")]
    return calls


def find_entries(source):
    """The functions that code of other files may run."""
    lines = [line for line in source.splitlines() if line.endswith(CALLED)]
    return [re.match(r"\s*(?:async )?def (\w+)", line).group(1) for line in lines]


def find_lines(code, lines):
    """Function → the lines that it can stand on; 0 for code to which the compiler gave none."""
    own = lines.setdefault(code.co_name, set())
    own.add(code.co_firstlineno)
    if hasattr(code, "co_lines"):
        own.update(line or 0 for _, _, line in code.co_lines())
    else:
        line = code.co_firstlineno
        for step in code.co_lnotab[1::2]:
            line += step - 256 if step > 127 else step
            own.add(line)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            find_lines(constant, lines)
    return lines


def describe(path):
    with open(path, encoding="utf-8") as file:
        source = file.read()
    lines = find_lines(compile(source, path, "exec"), {})
    return {
        "file": path,
        "calls": find_calls(source),
        "entries": find_entries(source),
        "lines": {name: sorted(own) for name, own in lines.items()},
    }


class Watch:
    """While it is entered: notes the calls from and to a file's functions that are not marked."""

    def __init__(self, path):
        described = describe(path)
        self._path = path
        self._calls = described["calls"]
        self._entries = described["entries"]
        self.unmarked = []

    def __enter__(self):
        threading.setprofile(self._watch)
        sys.setprofile(self._watch)
        return self

    def __exit__(self, *_):
        sys.setprofile(None)
        threading.setprofile(None)

    def _watch(self, frame, event, _):
        caller, name = frame.f_back, frame.f_code.co_name
        # Not the end of this watch.
        if event != "call" or caller is None or frame.f_code.co_filename == __file__:
            return
        is_own = frame.f_code.co_filename == self._path
        if caller.f_code.co_filename == self._path:
            marked = self._calls.get(caller.f_lineno, ())
            if is_own:
                runs = name in marked
            else:
                file = os.path.basename(frame.f_code.co_filename)
                runs = any(word == "others" or fnmatch.fnmatchcase(file, word) for word in marked)
        else:
            runs = not is_own or name in self._entries or name == "<module>"
        if not runs:
            self.unmarked.append([caller.f_code.co_name, caller.f_lineno, name])


def check(path, arguments):
    sys.argv = [path] + arguments
    with Watch(path) as watch:
        runpy.run_path(path, run_name="__main__")
    return watch.unmarked


def main():
    if sys.argv[1] == "--check":
        unmarked = check(sys.argv[2], sys.argv[3:])
        print(json.dumps({"unmarked": unmarked}))
    else:
        print(json.dumps(describe(sys.argv[1])))


if __name__ == "__main__":
    main()
