"""The readers of other profilers' profiles (scripts/truth)."""

from __future__ import annotations

import pathlib
import sys

import pytest

from conftest import ROOT
from profile_text import Frame, Sample

sys.path.insert(0, str(ROOT / "tests/truth"))

import collapsed  # noqa: E402

TICK_US = 1000


def read(folder: pathlib.Path, content: bytes) -> list[Sample]:
    path = folder / "profile"
    path.write_bytes(content)
    return collapsed.read(path, TICK_US).samples


def test_austins_text(tmp_path):
    text = b"# mode: wall\n\nP7;T0:12;/a b.py:f:3;/c.py:g:4;:GC: 150\nP7;T12;x.py:f:1 9\n\n# duration: 1\n"
    with_iid, without = read(tmp_path, text)
    frames = (Frame("/a b.py", "f", 3), Frame("/c.py", "g", 4), Frame("", "GC", 0))
    assert with_iid == Sample(7, 0, "12", frames, 150)
    assert without == Sample(7, 0, "12", (Frame("x.py", "f", 1),), 9)


def test_pyspys_text(tmp_path):
    text = b"thread (24): Main (x);<module> (/t/a b.py:6);f (</x>:1) 16\nthread (0x1F);g (c.py) 1\n"
    named, nameless = read(tmp_path, text)
    assert named == Sample(
        0, 0, "Main (x)", (Frame("/t/a b.py", "<module>", 6), Frame("</x>", "f", 1)), 16000
    )
    assert nameless == Sample(0, 0, "thread-31", (Frame("c.py", "g", 0),), 1000)


def test_the_text_of_profiling_sampling(tmp_path):
    (sample,) = read(tmp_path, b"tid:123;a.py:<module>:1;a.py:f:2;<GC> 5\n")
    frames = (Frame("a.py", "<module>", 1), Frame("a.py", "f", 2), Frame("", "GC", 0))
    assert sample == Sample(0, 0, "thread-123", frames, 5000)


def test_only_text_that_adds_stacks_up_is_without_order(tmp_path):
    path = tmp_path / "profile"
    for text, is_ordered in (("P1;T0:1;a.py:f:1 5\n", True), ("f (a.py:1) 5\n", False)):
        path.write_text(text)
        assert collapsed.read(path, TICK_US).is_ordered == is_ordered


@pytest.mark.parametrize("text", [b"nonsense 5\n", b"tid:1;a 5\n", b"P1;T0:1;a.py:f:x 5\n"])
def test_text_that_is_none_of_these_is_refused(tmp_path, text):
    with pytest.raises((collapsed.NotReadable, ValueError)):
        read(tmp_path, text)


def number(value: int) -> bytes:
    sign, value = (0x40, -value) if value < 0 else (0, value)
    data, value = [sign | (value & 0x3F)], value >> 6
    while value:
        data[-1] |= 0x80
        data.append(value & 0x7F)
        value >>= 7
    return bytes(data)


def mojo(version: int, *events: bytes) -> bytes:
    return b"MOJ" + number(version) + b"".join(events)


STACK = b"\x02" + number(7) + number(1) + b"worker\0"
TEXTS = b"".join(b"\x0b" + number(key) + text + b"\0" for key, text in ((64, b"/a.py"), (65, b"f")))
FRAME = b"\x03" + b"".join(map(number, (99, 64, 65, 1000, 0, 0, 0)))
REF = b"\x05" + number(99)
TIME = b"\x09" + number(2500)
F = Frame("/a.py", "f", 1000)


def test_austins_binary_form(tmp_path):
    data = mojo(3, b"\x01mode\0wall\0", STACK, TEXTS, FRAME, REF, TIME, STACK, REF, b"\x04\x07", TIME)
    first, second = read(tmp_path, data)
    assert first == Sample(7, 1, "worker", (F,), 2500)
    assert second.frames == (F, Frame("", "INVALID", 0), Frame("", "GC", 0))


def test_a_repeated_stack(tmp_path):
    samples = read(tmp_path, mojo(4, STACK, TEXTS, FRAME, REF, TIME, STACK, b"\x0d", TIME))
    assert samples[0] == samples[1]


@pytest.mark.parametrize("end", [STACK[:-1], b"\x09", b"\x63", b"\x09\xff"])
def test_a_broken_binary_file_is_refused(tmp_path, end):
    with pytest.raises(collapsed.NotReadable):
        read(tmp_path, mojo(3, end))
