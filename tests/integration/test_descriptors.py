"""A program may close every descriptor that it finds: what gets their numbers is its own."""

import pytest

from conftest import why_not
from runner import TARGETS

# What makes the ticks, and how rarely: each way of waiting is another.
ENGINES = [
    ("-i", "1ms", "--engine", "clock"),
    ("-i", "1s", "--engine", "clock"),
    ("-c", "--engine", "perf"),
    ("-c", "--engine", "bpf"),
    ("-i", "1ms", "--engine", "bpf"),
]
TARGET = TARGETS / "closes_all.py"


@pytest.fixture(params=ENGINES, ids=" ".join)
def options(request, build_dir):
    if reason := why_not(request.param[-1], build_dir / "echion"):
        pytest.skip(reason)
    return request.param


@pytest.mark.parametrize("kind", ["files", "sockets"])
def test_what_gets_the_numbers_of_closed_descriptors_is_left_alone(
    echion, any_python, options, kind
):
    """None is closed, read from or written to, also when the program asks for its stacks."""
    result = echion.run([any_python.path, TARGET, kind], *options).check()
    assert result.report == {"count": 40, "lost": [], "touched": []}, result.stderr


@pytest.mark.parametrize("kind", ["files", "sockets"])
def test_also_where_memory_is_read_through_a_file(echion, any_python, kind):
    command = [any_python.path, TARGETS / "without_vm_readv.py", any_python.path, TARGET, kind]
    result = echion.run(command, "-i", "1ms", "--engine", "clock").check()
    assert result.report == {"count": 40, "lost": [], "touched": []}, result.stderr


def test_the_agent_has_no_descriptor_but_its_channel(echion, any_python, options):
    """Beside the rendezvous, which is the environment's."""
    result = echion.run([any_python.path, TARGET, "list"], *options).check()
    assert len(result.report["open"]) == 2, result.report
    assert all(name.startswith("socket:") for name in result.report["open"]), result.report
