"""Tells the stacks that can exist from those that cannot (tests/targets/_marks.py)."""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import os
from typing import Any

from profile_text import Frame, Profile, Sample

OTHERS = "others"  # in a mark: functions of other files
THREAD_ENTRY = ("_bootstrap", "_bootstrap_inner", "run")


class Grammar:
    """What the target said of itself: each function's lines, and which lines run which functions."""

    def __init__(self, described: dict[str, Any], is_wrapped: bool = False):
        """`is_wrapped`: code of other files runs the program."""
        self._is_wrapped = is_wrapped
        self._file = os.path.basename(described["file"])
        self._lines = {name: set(lines) for name, lines in described["lines"].items()}
        self._entries = set(described["entries"]) | ({"<module>"} if is_wrapped else set())
        calls = {int(line): list(names) for line, names in described["calls"].items()}
        self._calls = {line: set(filter(_is_function, names)) for line, names in calls.items()}
        self._files = {
            line: [name for name in names if not _is_function(name)]
            for line, names in calls.items()
        }

    def is_own(self, frame: Frame) -> bool:
        return os.path.basename(frame.file) == self._file

    def fault(self, sample: Sample) -> str | None:
        """Why this stack cannot exist, or None if it can."""
        frames = [frame for frame in sample.frames if frame.function != "GC"]
        own = [self.is_own(frame) for frame in frames]
        if not any(own):
            return None  # the interpreter's start and end, a thread's first moments
        for frame, is_own in zip(frames, own):
            if is_own and frame.line not in self._lines.get(frame.name, ()):
                return f"{frame.name} has no line {frame.line}"
        for at in range(len(frames) - 1):
            caller, callee = frames[at], frames[at + 1]
            if own[at]:
                runs = self._runs(caller.line, callee, own[at + 1])
            else:
                runs = not own[at + 1] or callee.name in self._entries
            if not runs:
                return f"{caller.name}:{caller.line} does not run {callee.name}"
        return self._fault_of_root(frames, own)

    def _runs(self, line: int, callee: Frame, is_own: bool) -> bool:
        marked = self._calls.get(line, ())
        if is_own:
            return callee.name in marked
        file = os.path.basename(callee.file)
        return OTHERS in marked or any(
            fnmatch.fnmatchcase(file, pattern) for pattern in self._files.get(line, ())
        )

    def _fault_of_root(self, frames: list[Frame], own: list[bool]) -> str | None:
        first = frames[0].name
        if own[0]:
            return None if first == "<module>" else f"{first} is nobody's root"
        entry = tuple(frame.name for frame in frames[: own.index(True)])
        if self._is_wrapped and frames[own.index(True)].name == "<module>":
            return None
        is_entry = entry[: len(THREAD_ENTRY)] == THREAD_ENTRY
        return None if is_entry else f"a thread does not begin with {entry}"


def _is_function(word: str) -> bool:
    """Whether a word of a mark is a function's name, and not a pattern of files."""
    return "." not in word


@dataclasses.dataclass
class Verdict:
    """How many lines of a profile are what they should be. Equal stacks that follow each other are
    one line, so `samples` and `marked_samples`, from the footer, are the larger numbers;
    `marked_time` is the share of all threads' time that is marked, of the time that a busy machine let
    the sampler look at."""

    lines: int
    samples: int
    marked: int
    marked_samples: int
    marked_time: float
    faults: collections.Counter[str]

    @property
    def impossible(self) -> int:
        return sum(self.faults.values())

    def __str__(self) -> str:
        faults = "".join(f"\n  {count} × {fault}" for fault, count in self.faults.most_common(10))
        return (
            f"{self.impossible} impossible and {self.marked} marked of {self.lines} lines,"
            f" {self.marked_samples} marked of {self.samples} samples,"
            f" {self.marked_time:.3%} of the time marked{faults}"
        )


def judge(profile: Profile, described: dict[str, Any]) -> Verdict:
    grammar = Grammar(described)
    faults: collections.Counter[str] = collections.Counter()
    marked = marked_time = time = 0
    for sample in profile.samples:
        if sample.is_missed:
            continue
        time += sample.metric
        if sample.is_marked:
            marked += 1
            marked_time += sample.metric
        elif fault := grammar.fault(sample):
            faults[fault] += 1
    return Verdict(
        lines=len(profile.samples),
        samples=profile.figure("samples"),
        marked=marked,
        marked_samples=profile.figure("torn_marked") + profile.figure("invalid"),
        marked_time=marked_time / time if time else 0.0,
        faults=faults,
    )
