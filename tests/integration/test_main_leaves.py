"""A program whose main thread leaves first: the others are sampled, and its end is its own."""

import pytest

from runner import TARGETS, why_not

TARGET = TARGETS / "main_leaves.py"
AFTER_S = 0.6
OPTIONS = [
    ("--engine", "clock"),
    ("-i", "1s", "--engine", "clock"),
    ("--engine", "bpf"),
    ("-c", "--engine", "clock"),
    ("-c", "--engine", "perf"),
    ("-c", "--engine", "bpf"),
]


@pytest.fixture(params=OPTIONS, ids=" ".join)
def options(request, build_dir):
    if reason := why_not(request.param[-1], build_dir / "echion"):
        pytest.skip(reason)
    return request.param


def test_the_program_ends_when_its_last_thread_does(echion, any_python, options):
    result = echion.run([any_python.path, TARGET, "0.2", "0.2"], *options, timeout=30).check()
    assert result.profile.header["mode"] == ("cpu" if "-c" in options else "wall")
    assert result.stdout == "left in a buffer", "it is the program's exit(0) that ends it"


@pytest.mark.parametrize("before", ["0.3", "0"], ids=["sampled_before", "left_at_once"])
def test_the_threads_that_go_on_are_sampled(echion, python, before):
    """Nothing that is read goes through the thread that has left."""
    command = [python.path, TARGET, before, str(AFTER_S)]
    result = echion.run(command, "--engine", "clock", timeout=30).check()
    worked_us = result.report["worked"] * 1e6
    assert result.profile.total_with("work_on", "spin") >= 0.6 * worked_us, result.stderr
    unknown_us = sum(one.metric for one in result.profile.samples if one.has(":<unknown>"))
    assert unknown_us < 0.05 * worked_us
    assert int(result.profile.footer["read_failures"]) < 100


def test_also_where_memory_is_read_through_a_file(echion, any_python):
    command = [any_python.path, TARGETS / "without_vm_readv.py", any_python.path, TARGET, "0.3"]
    result = echion.run([*command, str(AFTER_S)], "--engine", "clock", timeout=30).check()
    worked_us = result.report["worked"] * 1e6
    assert result.profile.total_with("work_on", "spin") >= 0.6 * worked_us, result.stderr
