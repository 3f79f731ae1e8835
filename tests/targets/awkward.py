"""Names that break a line of text, in functions, files and threads: each is busy for a while.

    awkward.py [seconds for each]
"""

import threading
import types

from _support import argument, ready, report, spin

SECONDS = argument(1, 0.15)
FOLDER = "/no-such-folder/"  # which no file of this process lies in
NAMES = [
    "semi;colon",
    "co:lon",
    "new\nline",
    "carriage\rreturn",
    "digits at the end 123",
    "# looks like metadata: 1",
    "tab\there",
    "\U0001f40d\U0001f525",
    " leading and trailing ",
    "nul\0inside",
    "\ud800 lone surrogate",
    "ff",
    "",
]


def busy():
    spin(SECONDS)


def named(name):
    """busy(), with this name and a file of this name."""
    code = busy.__code__.replace(co_name=name, co_filename=FOLDER + name)
    if hasattr(code, "co_qualname"):
        code = code.replace(co_qualname=name)
    return types.FunctionType(code, globals(), "busy")


def main():
    ready()
    spin(0.5)  # until the sampler has begun, whatever it has to load first
    functions = [named(name) for name in NAMES]  # that live on: this is not about memory used again
    for name, function in zip(NAMES, functions):
        thread = threading.Thread(target=function)
        thread.name = name
        thread.start()
        thread.join()
    report(count=len(NAMES), folder=FOLDER, seconds=SECONDS)


if __name__ == "__main__":
    main()
