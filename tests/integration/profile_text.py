"""A profile as the tests want to ask about it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
from typing import Callable, Iterator


# What stands in a function's place where the profile itself says that it does not know: a stack that
# was not read to its root or not proved, and time that nobody looked at.
MARKERS = {"INVALID", "MISSED"}


@dataclasses.dataclass(frozen=True)
class Frame:
    file: str
    function: str
    line: int

    @property
    def name(self) -> str:
        """The function's own name, without the classes and functions that it is defined in."""
        return self.function.rpartition(".")[2]


@dataclasses.dataclass(frozen=True)
class Sample:
    pid: int
    iid: int
    thread: str
    frames: tuple[Frame, ...]
    metric: int

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(frame.name for frame in self.frames)

    @property
    def is_marked(self) -> bool:
        """Whether the profile itself says that this stack is not to be trusted."""
        return any(not frame.file and frame.function in MARKERS for frame in self.frames)

    @property
    def is_missed(self) -> bool:
        """Whether it is time that nobody looked at."""
        return any(not frame.file and frame.function == "MISSED" for frame in self.frames)

    def has(self, *names: str) -> bool:
        """Whether these functions stand one below the other, root first, without a gap."""
        own = self.names
        return any(own[i : i + len(names)] == names for i in range(len(own) - len(names) + 1))


@functools.lru_cache(maxsize=1 << 18)
def _parse_frame(text: str) -> Frame:
    file, function, line = text.rsplit(":", 2)
    return Frame(file, function, int(line) if line else 0)


@functools.lru_cache(maxsize=1 << 16)
def _parse_stack(text: str) -> tuple[int, int, str, tuple[Frame, ...]]:
    process, thread, *frames = text.split(";")
    iid, _, name = thread[1:].partition(":")
    if not process.startswith("P") or not thread.startswith("T"):
        raise ValueError(f"not a stack: {text[:200]!r}")
    return int(process[1:]), int(iid), name, tuple(_parse_frame(frame) for frame in frames)


def parse_sample(line: str) -> Sample:
    stack, _, metric = line.rpartition(" ")
    return Sample(*_parse_stack(stack), int(metric))


@dataclasses.dataclass
class Profile:
    """Header, samples in the order of the file, footer. Of other profilers some add up equal stacks
    (`is_ordered`: whether a thread's samples stand in the order in which they were taken), and some
    have no names of threads."""

    header: dict[str, str]
    samples: list[Sample]
    footer: dict[str, str]
    path: pathlib.Path | None = None
    is_ordered: bool = True
    names_threads: bool = True

    @staticmethod
    def read(path: pathlib.Path) -> Profile:
        return Profile.parse(path.read_text(encoding="utf-8"), path)

    @staticmethod
    def parse(text: str, path: pathlib.Path | None = None) -> Profile:
        header: dict[str, str] = {}
        footer: dict[str, str] = {}
        samples: list[Sample] = []
        for line in text.split("\n"):
            if line.startswith("# "):
                key, _, value = line[2:].partition(": ")
                (footer if samples else header)[key.strip()] = value.strip()
            elif line:
                samples.append(parse_sample(line))
        return Profile(header, samples, footer, path)

    def figure(self, key: str) -> int:
        """A number of the footer."""
        return int(self.footer[key].split()[0])

    def of_thread(self, name: str) -> Iterator[Sample]:
        return (sample for sample in self.samples if sample.thread == name)

    def total(self, accept: Callable[[Sample], bool] = lambda sample: True) -> int:
        """Sum of the metrics of the samples accepted."""
        return sum(sample.metric for sample in self.samples if accept(sample))

    def total_with(self, *names: str, thread: str | None = None) -> int:
        """Sum over the samples in which these functions call one another."""
        return self.total(
            lambda sample: thread in (None, sample.thread) and sample.has(*names)
        )

    def thread_totals(self) -> dict[str, int]:
        totals: collections.Counter[str] = collections.Counter()
        for sample in self.samples:
            totals[sample.thread] += sample.metric
        return dict(totals)

    def thread_names(self) -> set[str]:
        return {sample.thread for sample in self.samples}
