"""Every format holds the same profile, as readers that are not ours see it: austin-python 1.7 and 2.x for
MOJO, Google's protobuf and `go tool pprof` for pprof."""

from __future__ import annotations

import collections
import fcntl
import gzip
import json
import os
import pathlib
import pty
import shutil
import subprocess
import time
import zlib

import pytest

from attach_support import target_command
from conftest import ROOT
from profile_text import Profile
from runner import TIMEOUT_S

ONE_PYTHON = True  # see conftest.py

READERS = pathlib.Path(__file__).with_name("format_readers.py")
MOJO_READERS = {"mojo-1": "1.7.1", "mojo-2": "2.4.0"}
ENDINGS = {"austin": "austin", "mojo": "mojo", "pprof": "pb.gz"}
MARKS = {"TRUNCATED", "INVALID", "MISSED", "GC"}
# Of two runs of the same program, figures of the sampling itself.
OF_THE_RUN = {"duration", "sampler_cpu_ns"}
SPIN = """
import time
def inner(end):
    while time.thread_time() < end: pass
def outer():
    inner(time.thread_time() + 0.5)
outer()
"""


@pytest.fixture
def fake(build_dir) -> str:
    return str(build_dir / "tests" / "fake_agent")


@pytest.fixture(scope="session")
def readers(build_dir) -> pathlib.Path:
    """The folder of other people's readers."""
    folder = build_dir / "readers"
    command = [ROOT / "scripts" / "install-readers", folder]
    try:
        with open(build_dir / "readers.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # against another run that shares the tests
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip("austin-python cannot be had: the registry does not answer")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"austin-python cannot be had: {last}")
    return folder


@pytest.fixture
def read(readers):
    """Reads a file with one of the readers of format_readers.py."""

    def read_with(reader, path):
        version = MOJO_READERS.get(reader, MOJO_READERS["mojo-2"])
        python = readers / f"austin-python-{version}" / "bin" / "python"
        done = subprocess.run(
            [python, READERS, reader, path], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return read_with


def run_in(echion, name, command, *options):
    """Profiles a command into a format, by the file's ending."""
    output = echion.folder / f"profile.{ENDINGS[name]}"
    return echion.run(command, *options, output=output).check().output


def rows_of_text(path):
    """Each sample of Austin's text but for the process's id, which is another one in each run."""
    return [
        (one.iid, one.thread, [[f.file, f.function, f.line] for f in one.frames], one.metric)
        for one in Profile.read(path).samples
    ]


def rows_of_mojo(found):
    return [(one["iid"], one["thread"], one["frames"], one["metric"]) for one in found["samples"]]


def add_up(rows):
    """The times of equal stacks."""
    sums = collections.Counter()
    for iid, thread, frames, metric in rows:
        sums[iid, thread, json.dumps(frames)] += metric
    return sums


def rows_of_pprof(found):
    rows = []
    for one in found["samples"]:
        (value,) = one["values"]
        assert value % 1000 == 0
        (thread,) = one["labels"]["thread"]
        iid = one["labels"].get("interpreter", [0])[0]
        rows.append((iid, thread, one["frames"], value // 1000))
    return rows


def facts_of_text(path):
    profile = Profile.read(path)
    facts = {**profile.header, **profile.footer}
    return {key: value for key, value in facts.items() if key not in OF_THE_RUN}


def facts_of(found):
    return {key: value for key, value in found["metadata"].items() if key not in OF_THE_RUN}


@pytest.mark.parametrize("behaviour", ["exit", "names", "evil-names"])
@pytest.mark.parametrize("reader", MOJO_READERS)
def test_mojo_is_the_same_profile(echion, fake, read, behaviour, reader):
    text = run_in(echion, "austin", [fake, behaviour])
    found = read(reader, run_in(echion, "mojo", [fake, behaviour]))
    assert found["version"] == 3
    # A line of text without frames hides a number at its end, which this format need not.
    expected = [(i, t.replace("Worker_3", "Worker 3"), f, m) for i, t, f, m in rows_of_text(text)]
    assert rows_of_mojo(found) == expected
    assert facts_of(found) == facts_of_text(text)
    for one in found["samples"]:
        assert one["gc"] == (["", "GC", 0] in one["frames"])


@pytest.mark.parametrize("behaviour", ["exit", "names", "evil-names"])
def test_pprof_is_the_same_profile(echion, fake, read, behaviour):
    text = run_in(echion, "austin", [fake, behaviour])
    started_ns = time.time_ns()
    found = read("pprof", run_in(echion, "pprof", [fake, behaviour]))
    expected = [(i, t.replace("Worker_3", "Worker 3"), f, m) for i, t, f, m in rows_of_text(text)]
    assert add_up(rows_of_pprof(found)) == add_up(expected)
    assert facts_of(found) == facts_of_text(text)
    assert found["sample_types"] == [["wall", "nanoseconds"]]
    assert found["period_type"] == ["wall", "nanoseconds"]
    assert found["period"] == 1_000_000
    assert started_ns <= found["time_ns"] <= time.time_ns()
    assert found["duration_ns"] // 1000 == int(found["metadata"]["duration"])
    for one in found["samples"]:
        assert len(one["labels"]["pid"]) == 1
        marks = {frame[1] for frame in one["frames"] if not frame[0]} & MARKS
        assert set(one["labels"].get("mark", [])) == marks


def test_all_marks_were_compared(echion, fake):
    """Without them the tests above would say little."""
    samples = Profile.read(run_in(echion, "austin", [fake, "names"])).samples
    marks = {frame.function for one in samples for frame in one.frames if not frame.file}
    assert {"TRUNCATED", "INVALID", "GC"} <= marks


@pytest.mark.parametrize("reader", [*MOJO_READERS, "pprof"])
def test_a_true_program_is_in_it(echion, any_python, read, reader):
    name = reader.partition("-")[0]
    found = read(reader, run_in(echion, name, [any_python.path, "-c", SPIN], "-c"))
    rows = rows_of_pprof(found) if name == "pprof" else rows_of_mojo(found)
    assert found["metadata"]["mode"] == "cpu"
    if name == "pprof":
        assert found["sample_types"] == [["cpu", "nanoseconds"]]
        assert all(one["labels"]["tid"] for one in found["samples"] if one["frames"])
    names = ["<module>", "outer", "inner"]
    inner = [
        metric
        for _, thread, frames, metric in rows
        if thread == "MainThread" and [frame[1] for frame in frames][:3] == names
    ]
    # It spins for half a second of CPU time, less than what comes before the first look.
    assert 250_000 <= sum(inner) <= 550_000, rows
    assert sum(metric for *_, metric in rows) >= sum(inner)


def test_go_reads_pprof(echion, any_python):
    if shutil.which("go") is None:
        pytest.skip("no go")
    output = run_in(echion, "pprof", [any_python.path, "-c", SPIN], "-c")
    command = ["go", "tool", "pprof", "-top", "-nodecount=30", output]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if "no such tool" in done.stderr:
        pytest.skip(f"no pprof: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    assert "Type: cpu" in done.stdout
    row = next(line.split() for line in done.stdout.splitlines() if line.endswith(" inner"))
    assert row[0].endswith("s") and float(row[1].rstrip("%")) > 50, done.stdout
    raw = subprocess.run(
        ["go", "tool", "pprof", "-raw", output], capture_output=True, text=True, timeout=300
    )
    assert raw.returncode == 0 and "thread:[MainThread]" in raw.stdout, raw.stderr


@pytest.mark.parametrize("name", ["mojo", "pprof"])
def test_it_can_be_had_on_standard_output(echion, fake, read, name, tmp_path):
    command = [echion.program, "--format", name, "-s", "-o", "-", fake, "exit"]
    done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    (tmp_path / "out").write_bytes(done.stdout)
    found = read("mojo-2" if name == "mojo" else name, tmp_path / "out")
    rows = rows_of_mojo(found) if name == "mojo" else rows_of_pprof(found)
    assert sorted(metric for *_, metric in rows) == [5000, 10000]


@pytest.mark.parametrize("name", ["mojo", "pprof"])
def test_a_terminal_gets_no_bytes(echion, fake, name):
    ours, theirs = pty.openpty()
    try:
        command = [echion.program, "--format", name, "-o", "-", fake, "exit"]
        done = subprocess.run(
            command, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S
        )
    finally:
        os.close(theirs)
        os.close(ours)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "terminal" in done.stderr


def test_a_format_that_is_not_there_is_refused(echion, fake):
    result = echion.run([fake, "exit"], "--format", "svg")
    assert result.returncode == 2 and not result.output.exists()
    assert "--format svg: expected austin, mojo or pprof" in result.stderr


@pytest.mark.parametrize("name", ["mojo", "pprof"])
def test_a_full_output_is_told(echion, fake, read, name):
    output = echion.folder / f"profile.{ENDINGS[name]}"
    result = echion.run([fake, "rate", "20000"], "--max-output", "8K", output=output).check()
    assert "did not fit into 8 KiB" in result.stderr
    found = read("mojo-2" if name == "mojo" else name, output)
    rows = rows_of_mojo(found) if name == "mojo" else rows_of_pprof(found)
    facts = found["metadata"]
    assert facts["output_limit"] == "8192"
    written = sum(metric for *_, metric in rows)
    assert written > 0 and int(facts["value_cut"]) > 0
    assert written + int(facts["value_cut"]) == int(facts["duration"])


def read_unfinished(packed):
    """What is in a gzip file that has no end: as `gzip -dc` gives it."""
    return zlib.decompressobj(31).decompress(packed)


@pytest.mark.parametrize("name", ["mojo", "pprof"])
def test_what_was_written_before_a_kill_can_be_read(echion, any_python, read, name):
    output = echion.folder / f"profile.{ENDINGS[name]}"
    command = target_command(any_python, "phases", "busy")
    keywords = {"output": output, "stdin": subprocess.PIPE}  # whose end would end it
    with echion.start(command, "-c", **keywords) as running:
        running.wait_ready()
        time_out = time.monotonic() + TIMEOUT_S
        while not output.exists() or output.stat().st_size < 1000:
            assert time.monotonic() < time_out, "nothing is written as the run goes"
            time.sleep(0.05)
        running.kill()
    if name == "pprof":
        plain = output.with_suffix(".plain")
        plain.write_bytes(read_unfinished(output.read_bytes()))
        with pytest.raises(EOFError):
            gzip.decompress(output.read_bytes())
        output = plain
    found = read("mojo-2" if name == "mojo" else name, output)
    rows = rows_of_mojo(found) if name == "mojo" else rows_of_pprof(found)
    assert sum(metric for *_, metric in rows) > 0
    assert found["metadata"]["mode"] == "cpu" and "duration" not in found["metadata"]
