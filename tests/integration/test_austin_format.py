"""The tests' model of the existing tools: what it must accept, and what it must refuse."""

import pytest

from austin_format import FormatError, check_profile

GOOD = """# mode: wall
# interval: 1000 \n
P12;T0:MainThread;/srv/a b.py:<module>:3;:Task-1:0;:GC:0 1000
P12;T0:Worker_3 5
P12;T1:x;C:\\a.py:f:1 -7

# duration: 1005 \n"""


def test_a_good_profile_is_read_by_all():
    reading = check_profile(GOOD)
    assert reading.metadata == {"mode": "wall", "interval": "1000", "duration": "1005"}
    assert [sample.metric for sample in reading.samples] == [1000, 5, -7]
    assert [frame.function for frame in reading.samples[0].frames] == ["<module>", "Task-1", "GC"]
    assert reading.samples[2].frames[0].file == "C:\\a.py"


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("# interval: 1000 \n", "# interval: 1000\n"),  # taken for a stack
        ("# duration: 1005 \n", "# duration: 1005\n"),
        ("# mode: wall\n", ""),
        ("1000 \n\n", "1000 \n"),  # the first sample is lost
        ("1000\nP12", "1000\n\nP12"),
        ("Worker_3 5", "Worker 3 5"),  # two columns
        ("Worker_3 5", "Worker_3 5.5"),
        ("Worker_3 5", "Worker_3 0"),
        ("MainThread", "Main;Thread"),
        ("MainThread", "Main\rThread"),
        ("<module>:3", "<module>"),
        ("<module>:3", "<module>:x"),
        ("T0:MainThread", "TMainThread"),
        ("P12;T1", "12;T1"),
        ("P12;T0:Worker", "# P12;T0:Worker"),
    ],
)
def test_what_a_tool_would_stumble_over_is_refused(was, becomes):
    assert was in GOOD
    with pytest.raises(FormatError):
        check_profile(GOOD.replace(was, becomes))
