"""What echion says of a run though nobody asks, and what with -v."""

from __future__ import annotations

import subprocess

import pytest

from attach_support import start_target, target_command
from conftest import NOBODY, PYTHON
from runner import TIMEOUT_S

ONE_PYTHON = True  # see conftest.py


# --- Children that are not sampled ---

# Each child says when it is there, and ends when the pipe does.
CHILDREN = """
import os, sys, time
def hold(pipe):
    os.close(pipe[1])
    os.read(pipe[0], 1)
    os._exit(0)
pipe = os.pipe()
pids = []
kind, count = sys.argv[1], int(sys.argv[2])
for _ in range(count):
    if kind == "c":
        pid = __import__("ctypes").PyDLL(None).fork()  # without CPython's knowledge
    else:
        pid = os.fork()
    if pid == 0 and kind == "exec":
        os.execv("/bin/sleep", ["sleep", "0.5"])
    if pid == 0 and kind == "grandchild":
        if os.fork() == 0:
            hold(pipe)
        time.sleep(2)
        os._exit(0)
    if pid == 0:
        hold(pipe)
    pids.append(pid)
if kind == "subprocess":
    import subprocess
    for _ in range(3):
        subprocess.run(["/bin/sleep", "0.3"], preexec_fn=lambda: None, close_fds=True)
with open(os.environ["ECHION_TEST_FIFO"], "w") as words: print("ready", os.getpid(), file=words)
if sys.argv[3:]:
    os.read(0, 1)
end = time.monotonic() + {"grandchild": 2.0}.get(kind, 0.6)
while time.monotonic() < end: pass
os.close(pipe[1])
for pid in pids: os.waitpid(pid, 0)
print(*pids)
"""


@pytest.mark.parametrize(
    ("kind", "forked", "wanted"),
    [
        ("python", 3, 3),
        ("c", 2, 2),
        ("python", 12, 12),
        ("grandchild", 1, 2),
        ("exec", 3, 0),
        ("subprocess", 0, 0),
    ],
)
def test_forked_children_are_counted(echion, python, kind, forked, wanted):
    """One that executes another program at once is no worker that was not sampled."""
    result = echion.run([python.path, "-S", "-c", CHILDREN, kind, str(forked)]).check()
    told = result.profile.footer.get("children_not_sampled", "0")
    assert int(told) == wanted
    if not wanted:
        assert "not sampled" not in result.stderr
        return
    assert f"{wanted} forked children were not sampled" in result.stderr
    assert "echion -p PID while it runs" in result.stderr
    if kind == "python" and forked <= 8:
        for pid in result.stdout.split():
            assert pid in result.stderr


def test_children_that_were_there_before_are_counted(build_dir, any_python, tmp_path):
    command = [any_python.path, "-S", "-c", CHILDREN, "python", "2", "waits"]
    with start_target(tmp_path, command) as target:
        result = subprocess.run(
            [build_dir / "echion", "-x", "0.3", "-o", tmp_path / "out", "-p", str(target.pid)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert result.returncode == 0, result.stderr
        assert "2 forked children were not sampled" in result.stderr
        assert result.stderr.endswith("sample one with echion -p PID\n")
        assert "# children_not_sampled: 2 \n" in (tmp_path / "out").read_text()


# --- The engine ---


# For so long that it is sampled, also where other programs have most of the machine.
SPINS = "import time\nwhile time.process_time() < 0.5: pass"


def test_the_engine_is_named(echion, build_dir, python, engine, tmp_path):
    launched = echion.run([python.path, "-c", SPINS], "-v", "--engine", engine).check()
    assert f": the engine is {engine}\n" in launched.stderr
    with start_target(tmp_path, target_command(python, "waits", "raw_read")) as target:
        command = [build_dir / "echion", "-v", "-x", "0.05", "--engine", engine]
        command += ["-o", tmp_path / "out", "-p", str(target.pid)]
        attached = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert f": the engine is {engine}\n" in attached.stderr
        target.finish()


def test_the_engine_that_could_not_be_had_is_named_with_the_reason(nobodys):
    """auto falls back; perf events may be allowed or not."""
    result = nobodys.run([PYTHON, "-c", SPINS], "-v", wrap=NOBODY).check()
    assert ": the engine is clock (not bpf: " in result.stderr
    counted = nobodys.run([PYTHON, "-c", SPINS], "-v", "-c", wrap=NOBODY).check()
    assert ": the engine is perf (not bpf: " in counted.stderr or (
        ": the engine is clock (not bpf: " in counted.stderr and "; not perf: " in counted.stderr
    )


def test_an_engine_that_is_not_tried_is_told_with_the_reason(echion, any_python):
    result = echion.run([any_python.path, "-c", SPINS], "-v", "-i", "200us").check()
    assert ": the engine is clock (not bpf: at wall-time intervals below 500 us" in result.stderr


# --- Profiles with nearly nothing in them ---


def test_a_profile_without_samples_says_why(build_dir, waiting, tmp_path):
    """Standard error is a pipe."""
    result = subprocess.run(
        [build_dir / "echion", "-c", "-s", "-x", "0.2", "-o", tmp_path / "out", "-p", str(waiting.pid)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert result.returncode == 0
    assert result.stderr == (
        "echion: the profile has no samples: no thread used CPU time while it was sampled\n"
    )


