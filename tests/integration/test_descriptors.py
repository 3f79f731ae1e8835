"""A program may close every descriptor that it finds: what gets their numbers is its own."""

import contextlib
import os
import pathlib

import pytest

from runner import TARGETS, why_not
from whereabouts import wait_until

# What makes the ticks, and how rarely: each way of waiting is another.
ENGINES = [
    ("-i", "1ms", "--engine", "clock"),
    ("-i", "1s", "--engine", "clock"),
    ("-c", "--engine", "perf"),
    ("-c", "--engine", "bpf"),
    ("-i", "1ms", "--engine", "bpf"),
]
TARGET = TARGETS / "closes_all.py"
# Refused system calls: the sampler then has no descriptor table of its own, but shares the program's.
TABLES = {"own": [], "shared": [TARGETS / "without_calls.py", "close_range,unshare"]}


@pytest.fixture(params=TABLES.values(), ids=TABLES)
def in_table(request, any_python):
    """In front of a command: the sampler has a descriptor table of its own, or the program's."""
    return [any_python.path, *request.param] if request.param else []


@pytest.fixture
def in_shared_table(any_python):
    return [any_python.path, *TABLES["shared"]]


@pytest.fixture(params=ENGINES, ids=" ".join)
def options(request, build_dir):
    if reason := why_not(request.param[-1], build_dir / "echion"):
        pytest.skip(reason)
    return request.param


def check_untouched(result):
    report = result.report
    assert report["count"] == 40
    assert report["lost"] == [] and report["touched"] == [], result.stderr


@pytest.mark.parametrize("kind", ["files", "sockets"])
def test_what_gets_the_numbers_of_closed_descriptors_is_left_alone(
    echion, any_python, options, kind, in_table
):
    """None is closed, read from or written to, also when the program asks for its stacks."""
    result = echion.run([*in_table, any_python.path, TARGET, kind], *options).check()
    check_untouched(result)


@pytest.mark.parametrize("kind", ["files", "sockets"])
def test_also_where_memory_is_read_through_a_file(echion, any_python, kind, in_table):
    without = [any_python.path, TARGETS / "without_vm_readv.py"]
    command = [*in_table, *without, any_python.path, TARGET, kind]
    result = echion.run(command, "-i", "1ms", "--engine", "clock").check()
    check_untouched(result)


def test_the_agent_has_no_descriptor_but_its_channel(echion, any_python, options, in_table):
    """Beside the rendezvous, which is the environment's; and that only in the program's table."""
    result = echion.run([*in_table, any_python.path, TARGET, "list"], *options).check()
    assert len(result.report["open"]) == (2 if in_table else 1), result.report
    assert all(name.startswith("socket:") for name in result.report["open"]), result.report


def test_none_is_held_while_python_starts(echion, any_python, tmp_path, options):
    """So that a program that closes what it does not know finds nothing but the channel, however
    early it does. Python waits for its pyvenv.cfg, which is a FIFO, before it can be sampled."""
    if "1s" in options:
        pytest.skip("no other descriptors than at 1ms")
    if any_python.version < (3, 11):
        pytest.skip("looks for pyvenv.cfg beside the program itself, not beside a link to it")
    interpreter = tmp_path / "bin" / "python3"
    interpreter.parent.mkdir()
    interpreter.symlink_to(any_python.path)
    settings = tmp_path / "pyvenv.cfg"
    os.mkfifo(settings)
    with echion.start([interpreter, TARGET, "list"], *options) as running:
        wait_until(lambda: find_with_ring(interpreter), "the ring is mapped", 60)
        (pid,) = find_with_ring(interpreter)
        wait_until(lambda: count_received(pid) == 0, "what came with the ring is closed", 60)
        with open(wait_for_reader(settings), "w") as writer:
            settings.unlink()  # the site module reads it again
            settings.write_text(f"home = {os.path.dirname(any_python.path)}\n")
            writer.write(settings.read_text())
        running.finish().check()


def test_a_program_that_closes_all_descriptors_is_sampled_on(
    echion, any_python, options, in_table
):
    """To its end, which its process tells, when the channel has gone."""
    if "1s" in options:
        pytest.skip("too few ticks to tell")
    result = echion.run([*in_table, any_python.path, TARGET, "files"], *options).check()
    profile = result.profile
    assert "duration" in profile.footer
    ours = [one for one in profile.samples if one.has("spin")]
    # It is busy for eight times 50 ms behind closing them; before that, for a moment only.
    busy_us = result.report["spun_us"] if "-c" in options else 8 * 50_000
    assert sum(one.metric for one in ours) >= 0.6 * busy_us, result.stderr


@pytest.mark.parametrize("options", [("-i", "1ms", "--engine", "clock"), ("-c",)], ids=" ".join)
def test_without_a_channel_it_is_still_told_to_stop(
    echion, any_python, options, in_shared_table
):
    command = [*in_shared_table, any_python.path, TARGET, "files", "200"]
    with echion.start(command, "-x", "0.5", *options) as running:
        pid = running.wait_ready()
        wait_until(lambda: os.listdir(f"/proc/{pid}/task") == [str(pid)], "the agent has gone", 60)
        assert running.process.poll() is None, "the program was to go on"


def test_without_a_channel_it_sees_that_echion_has_died(echion, any_python, in_shared_table):
    command = [*in_shared_table, any_python.path, TARGET, "files", "2000"]
    with echion.start(command, "-i", "1ms", "--engine", "clock") as running:
        pid = running.wait_ready()
        running.process.kill()
        running.process.wait()
        wait_until(lambda: not find_samplers(pid), "the sampler has gone", 60)


def find_samplers(pid):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if (task / "comm").read_text() == "echion\n":
                found.append(task.name)
    return found


def find_with_ring(interpreter):
    """Processes of this interpreter that have mapped a ring."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            if arguments[0] == os.fsencode(interpreter) and "/memfd:" in (
                process / "maps"
            ).read_text():
                found.append(int(process.name))
    return found


def wait_for_reader(fifo):
    """Opens a FIFO for writing when somebody reads it."""
    opened = []

    def is_read():
        with contextlib.suppress(OSError):
            opened.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        return opened

    wait_until(is_read, "somebody reads the FIFO", 60)
    return opened[0]


def count_received(pid):
    names = []
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(fd))
    return sum(name.startswith(("/memfd:", "anon_inode:")) for name in names)
