"""A disk that fills while the profile is written, or at its very end: a tmpfs of a mount namespace of
echion's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from attach_support import start_target, target_command
from austin_format import check_profile
from runner import TIMEOUT_S

KIB = 1 << 10


@pytest.fixture
def fake(build_dir) -> str:
    return str(build_dir / "tests" / "fake_agent")


@pytest.fixture
def disk(tmp_path, needs_root):
    """In front of a command: a disk of that many KiB, whose one file is a copy of what `out` holds at
    the end."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1)")
    place = tmp_path / "disk"
    place.mkdir()

    def of_size(size_kib):
        script = (
            f"mount -t tmpfs -o size={size_kib}k,mode=755 none '{place}' || exit 99\n"
            f"\"$@\"; status=$?; cat '{place}/out' >'{tmp_path}/copy'; exit $status"
        )
        return ["unshare", "--mount", "sh", "-c", script, "sh"]

    if subprocess.run([*of_size(4), "true"], capture_output=True).returncode == 99:
        pytest.skip("may not mount a disk of its own")
    return of_size


def run_on(disk, build_dir, tmp_path, size_kib, *arguments, **keywords):
    command = [*disk(size_kib), str(build_dir / "echion"), "-o", tmp_path / "disk" / "out"]
    return subprocess.run(
        [*map(str, command), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        **keywords,
    )


def check_what_is_there(text, result):
    """All lines are whole, the user is told once how much there is, and how much is lost."""
    assert text.endswith("\n")
    check_profile(text)
    assert result.returncode == 1, result.stderr
    assert result.stderr.count("\n") == 1 and "No space left on device" in result.stderr
    told = re.search(r": (\d+) bytes written, (\d+) lost\n", result.stderr)
    assert told and int(told.group(1)) == len(text.encode()), result.stderr
    return int(told.group(2))


def test_a_disk_that_fills_while_a_command_runs(disk, build_dir, fake, tmp_path):
    """The command goes on to its end."""
    ended = tmp_path / "ended"
    script = f'"{fake}" rate 40000; touch "{ended}"'
    result = run_on(disk, build_dir, tmp_path, 1024, "-s", "sh", "-c", script)
    text = (tmp_path / "copy").read_text()
    lost = check_what_is_there(text, result)
    assert len(text) > 1000 * KIB and lost > 0
    assert ended.exists()


def test_a_disk_that_fills_ends_an_attachment(disk, build_dir, any_python, tmp_path):
    """At once: without -x nothing else would."""
    with start_target(tmp_path, target_command(any_python, "busy", "20", "1000000")) as target:
        options = ("-i", "100us", "--engine", "clock")
        result = run_on(disk, build_dir, tmp_path, 64, *options, "-p", target.pid)
        check_what_is_there((tmp_path / "copy").read_text(), result)
        assert target.is_alive()


def test_a_disk_that_fills_at_the_very_end(disk, build_dir, fake, tmp_path):
    """With room for all samples, and not for the figures behind them."""
    page = os.sysconf("SC_PAGE_SIZE")
    for count in range(10, 400, 10):
        whole = run_on(disk, build_dir, tmp_path, 1024, "-s", fake, "rate", count)
        assert whole.returncode == 0, whole.stderr
        text = (tmp_path / "copy").read_text()
        samples_end = text.rindex("\nP")
        size = samples_end // page * page + page  # the disk gives out whole pages
        if text.index("\n", samples_end + 1) < size < len(text):
            break
    else:
        raise AssertionError("no profile has its figures across the border of a page")
    result = run_on(disk, build_dir, tmp_path, size // KIB, "-s", fake, "rate", count)
    left = (tmp_path / "copy").read_text()
    check_what_is_there(left, result)
    assert left.count("\nP") == text.count("\nP")
