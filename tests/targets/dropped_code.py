"""Code that is dropped, and other code that is built in its place: as templates, notebooks and
`python -c` make it.

    dropped_code.py [rounds]

Each round runs a busy piece and drops it, then compiles one that waits: often at the same address,
its texts in the places of the old ones. The pieces' times are measured, to compare a profile with.
"""

from _support import argument, clock, ready, report

import time

BUSY_S = 0.003
WAIT_S = 0.1
spent = {}


def burn(name):
    begin = clock()
    while clock() < begin + BUSY_S:
        pass
    spent[name] = clock() - begin


def wait(name):
    begin = clock()
    time.sleep(WAIT_S)
    spent[name] = clock() - begin


def run_piece(function, name):
    exec(compile(f"piece({name!r})\n", f"{name}.html", "exec"), {"piece": function})


def main():
    rounds = argument(1, 6, int)
    ready()
    for number in range(rounds):
        run_piece(burn, f"busy{number}")
        run_piece(wait, f"wait{number}")
    report(spent=spent)


if __name__ == "__main__":
    main()
