"""A program whose main thread leaves first: the others are sampled, and its end is its own."""

import resource
import signal
import subprocess

import pytest

from attach_support import start_target, target_command
from runner import TARGETS, TIMEOUT_S, why_not

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


@pytest.fixture
def no_core():
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, before)


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


ENDS = TARGETS / "first_thread_ends.py"
KINDS = ["raw", "raw_early", "strict", "filter"]
OF_ITS_OWN = {"raw": 6, "raw_early": 0, "strict": -signal.SIGKILL, "filter": -signal.SIGSYS}


def status_without_echion(python, kind):
    status = subprocess.run([python.path, ENDS, kind], timeout=60).returncode
    # Before Linux 5.19 it is the first thread's also when others end later.
    assert status == OF_ITS_OWN[kind] or (kind, status) == ("raw_early", 6)
    return status


@pytest.mark.parametrize("kind", KINDS)
def test_the_status_stays_the_first_threads(echion, any_python, kind, no_core):
    status = status_without_echion(any_python, kind)
    result = echion.run([any_python.path, ENDS, kind], "--engine", "clock", timeout=30)
    assert result.returncode == (status if status >= 0 else 128 - status), result.stderr


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("kind", KINDS)
def test_its_parent_sees_that_status_also_where_it_was_attached_to(
    echion, any_python, tmp_path, kind, no_core
):
    status = status_without_echion(any_python, kind)
    awaits = {"ECHION_TEST_AWAIT_SAMPLER": "1"}
    command = target_command(any_python, "first_thread_ends", kind)
    with start_target(tmp_path, command, env=awaits) as target:
        result = echion.run(["-p", str(target.pid)], timeout=30).check()
        assert target.process.wait(TIMEOUT_S) == status
    assert "has ended" in result.stderr and "spin" in result.output.read_text()
