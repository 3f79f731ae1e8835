"""A limit on the program's writable memory (`ulimit -d`), and what else keeps sampling from its
beginning: the command's status stays its own."""

import subprocess

import pytest

from runner import TARGETS

STATUS = 3


def limited(limit, command):
    """A command under a limit of the shell, which echion does not have."""
    words = " ".join(f"'{word}'" for word in command)
    return ["sh", "-c", f"ulimit {limit}; exec {words}"]


@pytest.mark.parametrize("options", [(), ("-c",)], ids=["wall", "cpu"])
@pytest.mark.parametrize("kilobytes", [400_000, 60_000])
def test_a_program_of_limited_data_is_sampled(echion, python, kilobytes, options):
    command = [python.path, TARGETS / "shares.py", "0.5"]
    result = echion.run(limited(f"-d {kilobytes}", command), *options).check()
    assert result.profile.total_with("sixty") > 0, result.stderr
    assert int(result.profile.footer["table_full"]) == 0


def test_what_is_reserved_is_not_taken_from_the_program(echion, any_python):
    """It still gets most of what it may have."""
    code = (
        "import mmap, time; time.sleep(0.3); "
        "one = mmap.mmap(-1, 40000 << 10, flags=mmap.MAP_PRIVATE); print(len(one))"
    )
    result = echion.run(limited("-d 60000", [any_python.path, "-c", code])).check()
    assert result.stdout.strip() == str(40000 << 10)
    assert result.profile.samples


@pytest.mark.parametrize("kilobytes", [400_000, 40_000])
def test_the_status_is_the_commands(echion, any_python, kilobytes):
    code = f"import sys, time; time.sleep(0.3); sys.exit({STATUS})"
    result = echion.run(limited(f"-d {kilobytes}", [any_python.path, "-c", code]))
    assert result.returncode == STATUS, result.stderr
    assert result.profile.samples


@pytest.mark.parametrize("kilobytes", range(12_000, 44_000, 4_000))
def test_a_limit_that_stops_echion_itself_keeps_the_commands_status(
    build_dir, any_python, tmp_path, kilobytes
):
    """Wherever its own memory ends: the command is not run, for a reason, or its status counts."""
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w'); raise SystemExit(7)"
    script = f'ulimit -d {kilobytes}; exec "$@"'
    command = ["sh", "-c", script, "sh", build_dir / "echion", "-o", tmp_path / "out"]
    done = subprocess.run(
        [*command, any_python.path, "-c", code], capture_output=True, text=True, timeout=60
    )
    if done.returncode != 7:
        assert done.returncode == 1 and not ran.exists(), done.stderr
        assert done.stderr.startswith("echion: ") and "ulimit" in done.stderr, done.stderr
