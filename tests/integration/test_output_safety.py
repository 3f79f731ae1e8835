"""Where the profile goes when its place is hostile or takes nothing, and how much of it there may
be when a process makes a few bytes of its ring into many."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

from attach_support import start_target, target_command
from austin_format import check_profile
from conftest import NOBODY, PYTHON
from runner import TIMEOUT_S

MIB = 1 << 20
# Runs a program and says at the end what it held at most, in KiB.
WITH_PEAK = [
    sys.executable,
    "-c",
    "import resource, subprocess, sys\n"
    "status = subprocess.run(sys.argv[1:]).returncode\n"
    "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)\n"
    "sys.exit(status)",
]


@pytest.fixture
def fake(build_dir) -> str:
    return str(build_dir / "tests" / "fake_agent")


@pytest.fixture
def stuck(tmp_path):
    """A FIFO that somebody has open for reading, and does not read."""
    fifo = tmp_path / "stuck"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    yield fifo
    os.close(reader)


@pytest.fixture
def open_folder():
    """One that every user can come to, which pytest's own is not."""
    folder = pathlib.Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def in_folder_of_nobody(open_folder, mode):
    """A Python of nobody's, and a folder that nobody can write to, as its own or as everybody."""
    folder = open_folder / f"of-{mode:o}"
    folder.mkdir()
    folder.chmod(mode)
    if mode != 0o1777:
        os.chown(folder, 65534, 65534)
    code = (
        "import os, sys, time\n"
        "with open(os.environ['ECHION_TEST_FIFO'], 'w') as words: print('ready', os.getpid(), file=words)\n"
        "sys.stdin.read()"
    )
    words = open_folder / f"words-{mode:o}"
    words.mkdir()
    with start_target(words, [*NOBODY, PYTHON, "-c", code]) as target:
        yield folder, target


def run_in(build_dir, folder, *arguments):
    return subprocess.run(
        [str(build_dir / "echion"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        umask=0o022,
    )


@pytest.mark.parametrize("mode", [0o755, 0o1777], ids=["own", "sticky"])
@pytest.mark.parametrize("plant", ["link", "dangling", "hardlink", "fifo", "file", "folder"])
def test_root_writes_its_default_name_through_nothing(
    build_dir, open_folder, needs_root, mode, plant
):
    """In a folder of the target's user, who knows the name before root does."""
    precious = open_folder / "precious"
    precious.write_text("precious\n")
    with in_folder_of_nobody(open_folder, mode) as (folder, target):
        name = folder / f"{target.pid}.echion"
        if plant == "link":
            name.symlink_to(precious)
        elif plant == "dangling":
            name.symlink_to(open_folder / "made")
        elif plant == "hardlink":
            os.link(precious, name)
        elif plant == "fifo":
            os.mkfifo(name)
        elif plant == "folder":
            name.mkdir()
        else:
            name.write_text("theirs\n")
        if plant != "hardlink":
            os.chown(name, 65534, 65534, follow_symlinks=False)
        result = run_in(build_dir, folder, "-x", "0.1", "-p", str(target.pid))
    assert result.returncode == 1
    assert f"cannot write {target.pid}.echion: " in result.stderr and "-o" in result.stderr
    assert result.stderr.count("\n") == 1, "the target was not touched"
    assert precious.read_text() == "precious\n" and not (open_folder / "made").exists()


@pytest.mark.parametrize("mode", [0o755, 0o1777], ids=["own", "sticky"])
def test_roots_default_name_is_for_root(build_dir, open_folder, needs_root, mode):
    with in_folder_of_nobody(open_folder, mode) as (folder, target):
        for _ in range(2):  # the second replaces the first
            result = run_in(build_dir, folder, "-x", "0.1", "-p", str(target.pid))
            assert result.returncode == 0, result.stderr
            (profile,) = folder.glob("*.echion")
            assert profile.stat().st_mode & 0o777 == 0o600
            check_profile(profile.read_text())


@pytest.mark.parametrize("mode", [0o755, 0o1777], ids=["own", "sticky"])
@pytest.mark.parametrize("way", ["out", "way/out"])
def test_root_follows_no_link_of_others(build_dir, tmp_path, needs_root, mode, way):
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(mode)
    (tmp_path / "precious").mkdir()
    out = tmp_path / "precious" / "out"
    out.write_text("precious\n")
    link = folder / way.split("/")[0]
    link.symlink_to(out if way == "out" else out.parent)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    if mode != 0o1777:
        os.chown(folder, 65534, 65534)
    ran = tmp_path / "ran"
    result = run_in(build_dir, tmp_path, "-o", str(folder / way), "touch", str(ran))
    assert result.returncode == 1 and "symbolic link" in result.stderr
    assert out.read_text() == "precious\n" and not ran.exists()


def test_an_ordinary_user_writes_through_links_of_its_own(nobodys):
    link = nobodys.folder / "link"
    link.symlink_to("there")
    os.chown(link, 65534, 65534, follow_symlinks=False)
    nobodys.run([PYTHON, "-c", "pass"], output=link, wrap=NOBODY).check()
    assert (nobodys.folder / "there").is_file()


@pytest.mark.parametrize("output", ["/dev/null", "/dev/stdout", "/dev/fd/1"])
def test_devices_and_open_files_are_written(build_dir, fake, tmp_path, output):
    result = run_in(build_dir, tmp_path, "-s", "-o", output, fake, "exit", "0")
    assert result.returncode == 0, result.stderr
    if output != "/dev/null":
        assert len(check_profile(result.stdout).samples) == 2


def test_names_make_no_lines_controls_or_paths(echion, fake):
    result = echion.run([fake, "evil-names"], "-s").check()
    text = result.output.read_bytes().decode("utf-8")
    reading = check_profile(text)
    assert len(reading.samples) == 3  # of main, of the two threads
    assert reading.metadata["duration"] == "3000"
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text)
    assert not re.search(r"(^|[ :])/", text, re.M), "a path stands free"


# --- An output that takes nothing ---


def test_a_signal_ends_a_run_whose_output_is_stuck(echion, fake, stuck):
    with echion.start([fake, "expand", "0"], output=stuck) as running:
        running.wait_ready()
        os.kill(running.process.pid, signal.SIGINT)  # goes on to the command, which it ends
        result = running.finish(timeout=60)
    assert result.returncode == 1
    assert re.search(r"stuck is not complete \(.*\): \d+ bytes written, [1-9]\d* lost", result.stderr)


SIGNALLED_BEFORE = """
import os, signal, sys
signal.signal(signal.SIGINT, lambda number, frame: os.execv(sys.argv[1], [sys.argv[1], "expand", "40"]))
open(os.environ["ECHION_TEST_FIFO"], "w").write(f"waits {os.getpid()}\\n")
signal.pause()
"""


def test_a_signal_that_the_command_has_handled_ends_no_wait(echion, fake, any_python, stuck):
    command = [any_python.path, "-c", SIGNALLED_BEFORE, str(fake)]
    with echion.start(command, "-s", output=stuck) as running:
        running.wait_for("waits")
        os.kill(running.process.pid, signal.SIGINT)
        line = running.process.stderr.readline()
        assert "takes nothing" in line, line
        reader = os.open(stuck, os.O_RDONLY)
        while os.read(reader, 1 << 20):
            pass
        os.close(reader)
        result = running.finish(timeout=60)
    assert result.returncode == 0, result.stderr


def test_the_end_waits_for_a_stuck_output_until_told_otherwise(echion, fake, stuck):
    with echion.start([fake, "expand", "40"], "-s", output=stuck) as running:
        running.wait_ready()
        line = running.process.stderr.readline()
        assert "takes nothing" in line and "Ctrl-C" in line
        os.kill(running.process.pid, signal.SIGINT)
        result = running.finish(timeout=60)
    assert result.returncode == 1
    assert "is not complete" in result.stderr


def test_a_second_signal_ends_an_attachment_at_once(echion, any_python, stuck, tmp_path):
    """Whose target is stopped meanwhile, so that its agent does not answer."""
    with start_target(tmp_path, target_command(any_python, "busy")) as target:
        with echion.start(["-p", str(target.pid)], "-i", "100", output=stuck) as running:
            target.wait_until_sampled()
            os.kill(target.pid, signal.SIGSTOP)
            os.kill(running.process.pid, signal.SIGINT)
            os.kill(running.process.pid, signal.SIGTERM)  # two of one kind may be one
            result = running.finish(timeout=60)
            os.kill(target.pid, signal.SIGCONT)
    assert result.returncode in (0, 1)  # what a pipe takes may be all
    assert ("is not complete" in result.stderr) == (result.returncode == 1)


def test_a_slow_reader_gets_all(echion, fake, tmp_path):
    """What waits is not dropped: the ring is left alone, and the agent waits or drops."""
    fifo = tmp_path / "slow"
    os.mkfifo(fifo)
    parts = []
    with echion.start([fake, "rate", "40000"], "-s", output=fifo) as running:
        with open(fifo, "rb", buffering=0) as reader:
            while part := reader.read(4096):
                parts.append(part)
        running.finish().check()
    text = b"".join(parts).decode()
    assert text.count("\nP") == 40_001  # and one before the first
    assert "\n# output_stalled_ns: " in text


def test_a_full_standard_error_keeps_nobody(build_dir, fake, tmp_path):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    arguments = [build_dir / "echion", "-o", tmp_path / "out", fake, "connect-often", "20"]
    run = subprocess.run(list(map(str, arguments)), stderr=writer, timeout=60)
    os.close(reader)
    os.close(writer)
    assert run.returncode == 0, "the command's own status"


# --- Bounds ---


def test_few_bytes_of_a_ring_make_no_gigabyte(echion, fake):
    """28 records of 9 bytes, after one deep stack of long names."""
    result = echion.run([fake, "expand", "28"], "-s").check()
    assert result.output.stat().st_size < 28 * 2.1 * MIB
    footer = result.output.read_bytes()[-4096:].decode()
    assert int(re.search(r"# lines_shortened: (\d+)", footer).group(1)) >= 28
    assert "lines were cut at the leaf" in result.stderr


def test_the_output_ends_at_its_limit(echion, fake):
    result = echion.run([fake, "expand", "0"], "-s", "--max-output", "20M", timeout=60).check()
    size = result.output.stat().st_size
    assert 17 * MIB < size < 20 * MIB + 4096
    text = result.output.read_text()
    check_profile(text)
    assert re.search(rf"\n# output_limit: {20 * MIB} \n# lines_cut: [1-9]\d* \n", text)
    assert result.stderr.count("--max-output") == 2 and "20 MiB" in result.stderr


def test_one_process_does_not_use_up_the_output_of_all(echion, fake):
    script = f'"{fake}" until-stopped & "{fake}" expand 0; kill -TERM $!; wait'
    options = ("-s", "--max-output", "80M")
    result = echion.run(["sh", "-c", script], *options, timeout=60)
    text = result.output.read_text()
    check_profile(text)
    assert len(text) < 65 * MIB and "\n# processes_cut: 1 \n" in text
    assert "more than half" in result.stderr


def test_what_a_process_tells_of_itself_takes_bounded_memory(echion, fake):
    options = ("-s", "--max-memory", "60M")
    result = echion.run([fake, "hoard"], *options, wrap=WITH_PEAK, timeout=60)
    assert "--max-memory allows more" in result.stderr
    samples = check_profile(result.output.read_text()).samples
    assert len({sample.frames for sample in samples}) == 2
    assert int(re.search(r"^peak (\d+)$", result.stderr, re.M).group(1)) < 300 * 1024


def test_the_largest_process_pays_for_the_memory(echion, fake):
    script = f'"{fake}" until-stopped & "{fake}" hoard; kill -TERM $!; wait'
    result = echion.run(["sh", "-c", script], "-s", "--max-memory", "60M", timeout=60)
    assert result.stderr.count("--max-memory") == 1
    assert "\n# processes: 2 \n" in result.output.read_text()


@pytest.mark.parametrize("behaviour", ["expand", "search"])
def test_work_without_end_keeps_nobody_from_the_end(echion, fake, behaviour):
    options = ("-s", "-x", "0.2", "--max-output", "none")
    with echion.start([fake, behaviour, "0"], *options, output="/dev/null") as running:
        running.wait_ready()
        result = running.finish(timeout=60)
    assert result.returncode == 0, result.stderr


def test_a_stack_deeper_than_asked_for_ends_the_session(echion, fake):
    result = echion.run([fake, "too-deep"], "-s").check()
    assert "too many frames" in result.stderr
    assert len(check_profile(result.output.read_text()).samples) == 2
