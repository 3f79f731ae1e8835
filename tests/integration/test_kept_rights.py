"""What root's echion may still do once it has been set up, and that it can still do its work."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from attach_support import start_target, target_command
from conftest import PYTHON
from profile_text import Profile
from runner import PROFILE_NAMES, TARGETS, TIMEOUT_S, Echion

KILL, PTRACE, PERFMON, BPF = 1 << 5, 1 << 19, 1 << 38, 1 << 39
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def read_status(path: pathlib.Path) -> dict[str, str]:
    lines = path.read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines if ":" in line)}


def wait_for_rights(pid: int) -> list[dict[str, int]]:
    """Those of each thread of echion, once it can gain no more."""
    deadline = time.monotonic() + TIMEOUT_S
    tasks = pathlib.Path(f"/proc/{pid}/task")
    while time.monotonic() < deadline:
        status = []
        for one in tasks.iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
                status.append(read_status(one / "status"))
        if status and all(one["NoNewPrivs"] == "1" for one in status):
            return [{name: int(one[name], 16) for name in SETS} for one in status]
        time.sleep(0.002)
    raise AssertionError("it keeps its rights")


def check_rights(pid: int, kept: int) -> None:
    kept &= int(read_status(pathlib.Path("/proc/self/status"))["CapPrm"], 16)
    for sets in wait_for_rights(pid):
        assert sets["CapPrm"] == sets["CapEff"] == kept, sets
        assert sets["CapBnd"] & ~kept == 0, sets
        assert sets["CapInh"] == sets["CapAmb"] == 0, sets


def start(program: pathlib.Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(program), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("engine", ["clock", "perf", "bpf"])
def test_a_command_keeps_its_rights_and_what_comes_later_is_sampled(
    build_dir, tmp_path, needs_root, needs_perf, engine
) -> None:
    output = tmp_path / "out.austin"
    options = ["-v", "-c", "-o", output, "--engine", engine]
    echion = start(build_dir / "echion", *options, PYTHON, TARGETS / "comes_later.py")
    assert echion.stdout.readline() == "ready\n"
    kept = {"clock": 0, "perf": PERFMON, "bpf": PERFMON | BPF}[engine]
    check_rights(echion.pid, kept | PTRACE | KILL)
    out, err = echion.communicate("go\n", timeout=TIMEOUT_S)
    assert echion.returncode == 0, err
    own = read_status(pathlib.Path("/proc/self/status"))
    assert out.split() == [own[name] for name in ("CapPrm", "CapEff", "CapBnd", "NoNewPrivs")]
    assert re.search("^echion: capabilities kept: CAP_KILL, CAP_SYS_PTRACE", err, re.M), err
    profile = Profile.read(output)
    assert profile.header["engine"] == PROFILE_NAMES[engine]
    assert profile.total_with("spin", thread="later") == pytest.approx(300_000, rel=0.2)
    assert profile.total_with("spin_below") > 150_000


def test_a_command_that_has_changed_its_user_is_still_signalled(build_dir, tmp_path, needs_root) -> None:
    code = "import os, signal; os.setuid(65534); print('ready', flush=True); signal.pause()"
    echion = start(build_dir / "echion", "-o", tmp_path / "out.austin", PYTHON, "-c", code)
    assert echion.stdout.readline() == "ready\n"
    wait_for_rights(echion.pid)
    echion.send_signal(signal.SIGTERM)
    echion.communicate(timeout=TIMEOUT_S)
    assert echion.returncode == 128 + signal.SIGTERM


def test_an_attached_echion_keeps_little_and_ends_by_rights(
    echion: Echion, build_dir, any_python, tmp_path, needs_root, needs_perf
) -> None:
    with start_target(tmp_path, target_command(any_python, "waits", "read_pipe")) as target:
        threads = target.threads()
        output = tmp_path / "out.austin"
        attached = start(build_dir / "echion", "-v", "--engine", "bpf", "-o", output, "-p", target.pid)
        check_rights(attached.pid, PERFMON | BPF | PTRACE)
        target.wait_until_sampled()
        attached.send_signal(signal.SIGINT)
        _, err = attached.communicate(timeout=TIMEOUT_S)
        assert attached.returncode == 0, err
        target.wait_for_threads(threads)
        timed = echion.run(["-p", str(target.pid)], "-x", "0.2").check()
        assert timed.profile.header["engine"] in ("bpf", "nanosleep")
        target.wait_for_threads(threads)
        report = target.finish()
    assert report["got"] == report["wanted"]
    assert Profile.read(output).figure("samples") > 0


def test_following_keeps_the_right_to_read_only(build_dir, any_python, tmp_path, needs_root) -> None:
    with start_target(tmp_path, target_command(any_python, "waits", "read_pipe")) as target:
        following = start(build_dir / "echion", "-v", "-x", "60", "-w", target.pid)
        check_rights(following.pid, PTRACE)
        while not int(read_status(pathlib.Path(f"/proc/{following.pid}/status"))["SigBlk"], 16):
            time.sleep(0.002)  # until it takes signals as a wish to end
        following.send_signal(signal.SIGINT)
        _, err = following.communicate(timeout=TIMEOUT_S)
        assert following.returncode == 0, err
        assert "MainThread" in err
        target.finish()


def test_an_empty_profile_in_a_users_folder_is_still_removed(build_dir, tmp_path, needs_root) -> None:
    """Which takes the right to write there, kept for that."""
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o755)
    os.chown(folder, 65534, 65534)
    output = folder / "out.austin"
    code = 'echo ready; read line'
    echion = start(build_dir / "echion", "-v", "-o", output, "/bin/sh", "-c", code)
    assert echion.stdout.readline() == "ready\n"
    wait_for_rights(echion.pid)
    _, err = echion.communicate("go\n", timeout=TIMEOUT_S)
    assert "CAP_DAC_OVERRIDE" in err and "no Python was seen" in err
    assert not output.exists()
