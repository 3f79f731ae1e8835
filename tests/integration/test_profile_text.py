"""The tests' own reading of a profile."""

import pytest

from profile_text import Profile, parse_sample

TEXT = """# mode: wall
# interval: 1000 \n
P12;T0:MainThread;/srv/app.py:<module>:3;/srv/app.py:Shop.sell:10 1000
P12;T0:Worker: 3;/srv/a b.py:run.<locals>.step:7;:GC:0 20

# duration: 1020 \n"""


def test_header_samples_and_footer_are_told_apart():
    profile = Profile.parse(TEXT)
    assert profile.header == {"mode": "wall", "interval": "1000"}
    assert profile.footer == {"duration": "1020"}
    assert profile.figure("duration") == profile.total() == 1020


def test_frames_are_split_from_the_right():
    sample = parse_sample(r"P1;T2:a;C:\x.py:f:4;:task:0;:GC:0 5")
    assert [(one.file, one.function, one.line) for one in sample.frames] == [
        (r"C:\x.py", "f", 4),
        ("", "task", 0),
        ("", "GC", 0),
    ]
    assert (sample.pid, sample.iid, sample.thread, sample.metric) == (1, 2, "a", 5)


def test_functions_are_known_by_their_own_names():
    profile = Profile.parse(TEXT)
    assert profile.samples[0].has("<module>", "sell")
    assert profile.samples[1].has("step", "GC")
    assert not profile.samples[0].has("sell", "<module>")


@pytest.mark.parametrize("line", ["P1;X0:a;f.py:g:1 5", "P1;T0:a;f.py:g:1 x", "P1;T0:a;noframe 5"])
def test_lines_that_are_no_samples_are_refused(line):
    with pytest.raises(ValueError):
        parse_sample(line)
