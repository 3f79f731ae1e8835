"""Reads the profiles of other profilers: Austin's collapsed text and binary (MOJO) form, py-spy's raw
form, and the collapsed form of CPython 3.15's profiling.sampling.

    Austin      P<pid>;T<iid>:<thread>;<file>:<function>:<line>;… <microseconds>
    py-spy      thread (<id>): <name>;<function> (<file>:<line>);… <samples>
    profiling   tid:<id>;<file>:<function>:<line>;<GC>;… <samples>
"""

from __future__ import annotations

import pathlib
import re
from typing import Iterator

from profile_text import Frame, Profile, Sample

_PYSPY_THREAD = re.compile(r"thread \((?P<id>[^)]*)\)(?:: (?P<name>.*))?")
_PYSPY_FRAME = re.compile(r"(?P<function>.*) \((?P<file>.*?)(?::(?P<line>-?\d+))?\)")
_PROFILING_THREAD = re.compile(r"tid:(\S+)")


class NotReadable(Exception):
    """The file is in none of the forms."""


def read(path: pathlib.Path, interval_us: int) -> Profile:
    """A profile in any of the forms. Where a form counts samples, each stands for an interval."""
    data = path.read_bytes()
    if data.startswith(b"MOJ"):
        return Profile({}, list(read_mojo(data)), {}, path, names_threads=False)
    text = data.decode("utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not lines:
        return Profile({}, [], {}, path)
    if re.match(r"P\d+;T", lines[0]):
        return Profile({}, list(map(parse_austin, lines)), {}, path, names_threads=False)
    names_threads = not _PROFILING_THREAD.match(lines[0])
    parse = parse_pyspy if names_threads else parse_profiling
    samples = [parse(line, interval_us) for line in lines]
    return Profile({}, samples, {}, path, is_ordered=False, names_threads=names_threads)


def parse_austin(line: str) -> Sample:
    """Austin before 4.0 writes `T<id>` or `T<iid>:<id>`; a marker may have no line."""
    stack, _, metric = line.rpartition(" ")
    process, thread, *frames = stack.split(";")
    iid, colon, name = thread[1:].rpartition(":")
    number = int(iid) if colon and iid.isdigit() else 0
    return Sample(int(process[1:]), number, name, tuple(map(_austin_frame, frames)), int(metric))


def _austin_frame(text: str) -> Frame:
    if text.startswith(":") and text.endswith(":"):
        return Frame("", text.strip(":"), 0)
    file, function, line = text.rsplit(":", 2)
    return Frame(file, function, int(line or 0))


def parse_pyspy(line: str, interval_us: int) -> Sample:
    stack, _, count = line.rpartition(" ")
    words = stack.split(";")
    thread = ""
    if match := _PYSPY_THREAD.fullmatch(words[0]):
        thread = match["name"] or f"thread-{int(match['id'], 0)}"
        words = words[1:]
    frames = tuple(_pyspy_frame(word) for word in words if not word.startswith("process "))
    return Sample(0, 0, thread, frames, int(count) * interval_us)


def _pyspy_frame(text: str) -> Frame:
    match = _PYSPY_FRAME.fullmatch(text)
    if not match:
        raise NotReadable(f"no frame of py-spy's: {text[:200]!r}")
    return Frame(match["file"], match["function"], int(match["line"] or 0))


def parse_profiling(line: str, interval_us: int) -> Sample:
    stack, _, count = line.rpartition(" ")
    words = stack.split(";")
    thread = _PROFILING_THREAD.match(words[0])
    if not thread:
        raise NotReadable(f"no thread of profiling.sampling's: {words[0][:200]!r}")
    frames = []
    for word in words[1:]:
        if word.startswith("<") and word.endswith(">") and ":" not in word:
            frames.append(Frame("", word.strip("<>"), 0))
        else:
            file, function, number = word.rsplit(":", 2)
            frames.append(Frame(file, function, int(number)))
    # The form has no names of threads.
    return Sample(0, 0, f"thread-{int(thread[1], 0)}", tuple(frames), int(count) * interval_us)


# --- MOJO --------------------------------------------------------------------------------------
#
# `MOJ`, the version, and then events of one byte with their fields. Numbers are of variable length:
# bit 7 of each byte says whether another follows, bit 6 of the first is the sign. Texts end with a 0.


class _Mojo:
    def __init__(self, data: bytes):
        self._data = data
        self._at = 3
        self.version = self.number()

    def more(self) -> bool:
        return self._at < len(self._data)

    def byte(self) -> int:
        if not self.more():
            raise NotReadable("the file ends within an event")
        self._at += 1
        return self._data[self._at - 1]

    def number(self) -> int:
        first = self.byte()
        value, shift, more = first & 0x3F, 6, first & 0x80
        while more:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift, more = shift + 7, byte & 0x80
        return -value if first & 0x40 else value

    def text(self) -> str:
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise NotReadable("the file ends within a text")
        text = self._data[self._at : end].decode("utf-8", errors="replace")
        self._at = end + 1
        return text


def read_mojo(data: bytes) -> Iterator[Sample]:
    mojo = _Mojo(data)
    texts: dict[tuple[int, int], str] = {}
    frames: dict[tuple[int, int], Frame] = {}
    stacks: dict[tuple[int, int, str], tuple[Frame, ...]] = {}
    pid, iid, thread, stack = 0, 0, "", []
    is_collecting = False
    while mojo.more():
        event = mojo.byte()
        if event == 1:  # metadata
            mojo.text(), mojo.text()
        elif event == 2:  # a stack begins
            pid = mojo.number()
            iid = mojo.number() if mojo.version >= 3 else 0
            thread, stack, is_collecting = mojo.text(), [], False
        elif event == 3:  # a frame, told for the first time
            key = mojo.number()
            file, function, line = mojo.number(), mojo.number(), mojo.number()
            if mojo.version >= 2:
                mojo.number(), mojo.number(), mojo.number()
            names = [_mojo_text(texts, pid, ref) for ref in (file, function)]
            frames[pid, key] = Frame(names[0], names[1], line)
        elif event == 4:
            stack.append(Frame("", "INVALID", 0))
        elif event == 5:
            stack.append(frames.get((pid, mojo.number()), Frame("", "INVALID", 0)))
        elif event == 6:  # a frame of the kernel
            mojo.text()
        elif event == 7:
            is_collecting = True
        elif event == 8:  # idle
            pass
        elif event in (9, 10):  # time, memory: the sample ends
            metric = mojo.number()
            stacks[pid, iid, thread] = tuple(stack)
            if metric and event == 9:
                collecting = (Frame("", "GC", 0),) if is_collecting else ()
                yield Sample(pid, iid, thread, tuple(stack) + collecting, metric)
        elif event == 11:
            key = mojo.number()
            texts[pid, key] = mojo.text()
        elif event == 12:
            mojo.number()
        elif event == 13:  # the frames of the thread's sample before
            stack = list(stacks.get((pid, iid, thread), ())) + stack
        else:
            raise NotReadable(f"event {event} is not known")


def _mojo_text(texts: dict[tuple[int, int], str], pid: int, key: int) -> str:
    return texts.get((pid, key), "<unknown>" if key == 1 else "")
