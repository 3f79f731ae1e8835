"""Filters for targets (seccomp, in classic BPF; x86-64 only), and the targets that install them."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from typing import Iterable, Iterator, Sequence

from attach_support import Target, start_target
from interpreters import Interpreter
from runner import TARGETS

ALLOW, LOG, TRACE, NOTIFY = 0x7FFF0000, 0x7FFC0000, 0x7FF00000, 0x7FC00000
ERRNO, TRAP, KILL_THREAD, KILL = 0x00050000, 0x00030000, 0, 0x80000000
EPERM, ENOSYS = 1, 38

NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
X86_64 = 0xC000003E
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06

Instruction = Sequence[int]  # code, jt, jf, k
# A call, and what each of its arguments' 32-bit words has to be: {offset: value}
Rule = "tuple[int, dict[int, int]]"


def _numbers() -> dict[str, int]:
    found = {}
    header = pathlib.Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    for line in header.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[1].startswith("__NR_"):
            found[words[1][len("__NR_") :]] = int(words[2])
    return found


NUMBERS = _numbers()


def answer(value: int, *calls: str) -> list[Instruction]:
    """Answers these calls with `value`, and allows all others."""
    return match([(NUMBERS[call], {}) for call in calls], value, ALLOW)


def answer_argument(value: int, call: str, place: int, argument: int) -> list[Instruction]:
    """The same for a call whose argument at a place, counted from 0, is this."""
    return match([(NUMBERS[call], {ARGUMENTS + 8 * place: argument})], value, ALLOW)


def match(rules: Iterable[Rule], value: int, otherwise: int) -> list[Instruction]:
    """A filter as libseccomp and container runtimes write them: one block a rule."""
    program: list[Instruction] = [
        (_LOAD, 0, 0, ARCHITECTURE),
        (_IF_EQUAL, 1, 0, X86_64),
        (_RETURN, 0, 0, KILL),
        (_LOAD, 0, 0, NUMBER),
        (_IF_AT_LEAST, 0, 1, 0x40000000),  # the x32 ABI
        (_RETURN, 0, 0, ERRNO | ENOSYS),
    ]
    for number, words in rules:
        block: list[Instruction] = [(_LOAD, 0, 0, NUMBER)]
        left = 2 * len(words) + 1
        block.append((_IF_EQUAL, 0, left, number))
        for offset, word in words.items():
            block.append((_LOAD, 0, 0, offset))
            left -= 2
            block.append((_IF_EQUAL, 0, left, word))
        block.append((_RETURN, 0, 0, value))
        program += block
    program.append((_RETURN, 0, 0, otherwise))
    return program


@contextlib.contextmanager
def start_filtered(
    folder: pathlib.Path,
    python: Interpreter,
    filters: Sequence[Sequence[Instruction]],
    kind: str = "waits",
    **keywords: object,
) -> Iterator[Target]:
    """A target that installs these filters and is then ready: tests/targets/filtered.py."""
    place = folder / f"filters-{kind}.json"
    place.write_text(json.dumps(filters))
    command = [python.path, TARGETS / "filtered.py", str(place), kind]
    with start_target(folder, command, env=dict(os.environ), **keywords) as target:
        yield target
