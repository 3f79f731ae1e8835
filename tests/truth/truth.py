"""What a program knows of itself, in the form that the checks compare profiles with."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Sequence

from possible import Grammar
from profile_text import Sample


@dataclasses.dataclass(frozen=True)
class Span:
    """Time that was spent in one function, told by frames that stand one below the other, in one
    interpreter, in the garbage collector or not."""

    label: str
    seconds: float
    chain: tuple[str, ...] = ()
    iid: int | None = None
    collecting: bool = False

    def holds(self, sample: Sample) -> bool:
        names = sample.names
        if (bool(names) and names[-1] == "GC") != self.collecting:
            return False
        return self.iid in (None, sample.iid) and sample.has(*self.chain)


@dataclasses.dataclass(frozen=True)
class Piece:
    """A piece of code with a file's name of its own. Pieces run one after the other, each once."""

    file: str
    seconds: float
    is_leaf: bool = False  # whether it runs nothing


@dataclasses.dataclass(frozen=True)
class Life:
    """How long a thread was within a function, at least and at most."""

    thread: str
    least_s: float
    most_s: float
    within: str | None = None  # None: all of the thread's time


@dataclasses.dataclass(frozen=True)
class Wait:
    """A thread that waits in one of some functions, each time so long; `within`: while this function
    is in its stack, where it does something else, too."""

    thread: str
    leaves: frozenset[tuple[str, str]]  # file's last name, function
    each_s: float
    within: str | None = None
    # The most that the program measured at a time outside of its waits: how long it stood somewhere
    # else without a CPU.
    beside_s: float = 0.0


@dataclasses.dataclass
class Truth:
    grammar: Grammar | None = None
    # Of a program whose tasks have stacks of their own: why one cannot be; empty: it can.
    fault: Callable[[Sample], str] | None = None
    spans: Sequence[Span] = ()
    pieces: Sequence[Piece] = ()
    lives: Sequence[Life] = ()
    waits: Sequence[Wait] = ()
    # Function → the one thread that runs it; function → its interpreter's number.
    owners: dict[str, str] = dataclasses.field(default_factory=dict)
    places: dict[str, int] = dataclasses.field(default_factory=dict)
    # CPU time of the process, a sampler's within it included.
    cpu_s: float | None = None
    # Whether its main thread was where it says before its first sample.
    was_ready: bool = False


def make_lives(told: dict[str, Any], clock: str) -> list[Life]:
    """From what a target reports: one time, or two between which the right one lies."""
    lives = []
    for thread, facts in told.items():
        seconds = facts[clock]
        least, most = seconds if isinstance(seconds, list) else (seconds, seconds)
        lives.append(Life(thread, least, most, facts.get("function")))
    return lives
