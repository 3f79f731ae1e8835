"""What the existing tools make of a profile, by the rules by which they read one.

Four readers, each after the facts gathered of the tool (not its code): austin-python 2.x and 1.7,
flamegraph.pl, speedscope. `check_profile` lets all of them read a text and asserts that they see the
same samples and nothing else.
"""

from __future__ import annotations

import dataclasses
import re

from profile_text import Frame, Sample


class FormatError(AssertionError):
    """A reader would refuse the file, or misread it."""


@dataclasses.dataclass
class Reading:
    metadata: dict[str, str]
    samples: list[Sample]


def _parse_frame(text: str) -> Frame:
    parts = text.rsplit(":", 2)
    if len(parts) != 3:
        raise FormatError(f"a frame with fewer than two colons: {text!r}")
    file, function, line = parts
    # Of a frame without a line's number austin-python 2.x makes line 0; 1.7 drops the whole sample.
    try:
        return Frame(file, function, int(line))
    except ValueError:
        raise FormatError(f"a frame whose line is no number: {text!r}") from None


def _parse_sample(line: str) -> Sample:
    head, _, metric = line.rpartition(" ")
    process, _, rest = head.partition(";")
    if not process.startswith("P"):
        raise FormatError(f"a sample without a process: {line!r}")
    thread, _, frames = rest.partition(";")
    if not thread.startswith("T") or ":" not in thread:
        raise FormatError(f"a sample without a thread: {line!r}")
    iid, _, name = thread[1:].partition(":")
    try:
        return Sample(
            int(process[1:]),
            int(iid),
            name,
            tuple(_parse_frame(frame) for frame in frames.split(";")) if frames else (),
            int(metric),
        )
    except ValueError:
        raise FormatError(f"a number that is none: {line!r}") from None


def _lines(text: str) -> list[str]:
    """As a text file is iterated: every \\n, \\r\\n and lone \\r ends a line."""
    return re.split(r"\r\n|\n|\r", text)


def read_austin_2(text: str) -> Reading:
    reading = Reading({}, [])
    for line in _lines(text):
        line = line.rstrip()
        if not line:
            continue
        if line.startswith("# "):
            key, separator, value = line[2:].partition(": ")
            if not separator:
                raise FormatError(f"metadata without a value: {line!r}")
            reading.metadata[key] = value
        else:
            reading.samples.append(_parse_sample(line))
    if "mode" not in reading.metadata:
        raise FormatError("the converters need `mode`")
    return reading


def read_austin_1(text: str) -> Reading:
    """The header ends at the first other line, which is lost; the samples at the next blank one."""
    reading = Reading({}, [])
    lines = iter(_lines(text))

    def take_metadata(line: str) -> None:
        key, _, value = line[2:].partition(": ")
        reading.metadata[key] = value.strip()

    for line in lines:
        if not line.startswith("# "):
            if line.strip():
                raise FormatError(f"the first sample is lost: {line!r}")
            break
        take_metadata(line)
    for line in lines:
        line = line.strip()
        if not line:
            break
        if line.startswith("# "):
            raise FormatError(f"metadata among the samples: {line!r}")
        reading.samples.append(_parse_sample(line))
    for line in lines:
        if line.startswith("# "):
            take_metadata(line)
        elif line.strip():
            raise FormatError(f"a sample behind the samples: {line!r}")
    return reading


def read_flamegraph(text: str) -> list[tuple[str, float]]:
    """Pairs of stack and count. A second number at the end of a stack would make it a difference."""
    pattern = re.compile(r"^(.*)\s+?(\d+(?:\.\d*)?)$", re.ASCII)
    stacks = []
    for line in text.split("\n"):
        match = pattern.match(line)
        if match:
            stack, count = match.groups()
            if pattern.match(stack):
                raise FormatError(f"flamegraph.pl reads two columns: {line!r}")
            stacks.append((stack, float(count)))
    return stacks


def read_speedscope(text: str) -> list[tuple[list[str], int]]:
    pattern = re.compile(r"^(.*) (\d+)$", re.ASCII)
    stacks = []
    for line in text.split("\n"):
        match = pattern.match(line)
        if match:
            stacks.append((match.group(1).split(";"), int(match.group(2))))
    return stacks


def check_profile(text: str) -> Reading:
    """What all tools agree to see. Raises FormatError where one would refuse or misread it."""
    second, first = read_austin_2(text), read_austin_1(text)
    if first.samples != second.samples:
        raise FormatError("the two generations of austin-python see different samples")
    if first.metadata != second.metadata:
        raise FormatError("the two generations of austin-python see different metadata")
    # Signed metrics are for austin-python only.
    positive = [sample for sample in second.samples if sample.metric >= 0]
    for name, stacks in (
        ("flamegraph.pl", [stack.split(";") for stack, _ in read_flamegraph(text)]),
        ("speedscope", [stack for stack, _ in read_speedscope(text)]),
    ):
        if any(not stack[0].startswith("P") for stack in stacks):
            raise FormatError(f"{name} takes metadata for a stack")
        if [len(stack) - 2 for stack in stacks] != [len(sample.frames) for sample in positive]:
            raise FormatError(f"{name} sees other stacks")
    if sum(count for _, count in read_flamegraph(text)) != sum(one.metric for one in positive):
        raise FormatError("flamegraph.pl sees other metrics")
    if any(sample.metric == 0 for sample in second.samples):
        raise FormatError("a sample without a metric")
    return second
