"""What keeps echion from its work is named: which resource, whose limit, and what to do."""

from __future__ import annotations

import pathlib
import re
import resource
import shutil
import subprocess

import pytest

from attach_support import start_target
from austin_format import check_profile
from runner import TIMEOUT_S

MIB = 1 << 20


@pytest.fixture
def run(build_dir, tmp_path):
    def run_echion(*arguments, wrap=(), **keywords):
        command = [*wrap, build_dir / "echion", *arguments]
        keywords.setdefault("stdout", subprocess.PIPE)
        return subprocess.run(
            list(map(str, command)),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            **keywords,
        )

    return run_echion


def check_refusal(result, *words):
    """One line, with a reason that the user can act on; the words are all in it."""
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("echion: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


# --- /proc ---


def in_namespace(*options, script):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1)")
    if subprocess.run(["unshare", *options, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces of its own here")
    return ["unshare", *options, "sh", "-c", script + ' "$@"', "sh"]


@pytest.mark.parametrize("mode", ["-p", "-w", "-xw", "launch", "--doctor"])
def test_proc_that_is_not_mounted(run, needs_root, waiting, tmp_path, mode):
    pid = str(waiting.pid)
    arguments = {
        "-p": ["-x", "0.1", "-o", "out", "-p", pid],
        "-w": ["-w", pid],
        "-xw": ["-x", "0.1", "-w", pid],
        "launch": ["-o", "out", "touch", "started"],
        "--doctor": ["--doctor"],
    }[mode]
    wrap = in_namespace("--mount", script="umount -l /proc && exec")
    check_refusal(run(*arguments, wrap=wrap), "/proc is not mounted", "mount -t proc")
    assert not (tmp_path / "started").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["-p", "-w"])
def test_proc_of_another_pid_namespace(run, needs_root, mode):
    """Where the number 1 means one process to the kernel and another one in /proc."""
    wrap = in_namespace("--pid", "--fork", script="")
    check_refusal(run(mode, "1", wrap=wrap), "another PID namespace", "mount -t proc")


# --- Memory of the target ---


LIMITS = {"as": (resource.RLIMIT_AS, "address space", "ulimit -v"), "data": (resource.RLIMIT_DATA, "data", "ulimit -d")}


def limit_memory(target, kind, extra_bytes):
    """The target may have so much more than it has."""
    status = pathlib.Path(f"/proc/{target.pid}/status").read_text()
    key = {"as": "VmSize:", "data": "VmData:"}[kind]
    used = int(status.partition(key)[2].split()[0]) << 10
    number = LIMITS[kind][0]
    before = resource.prlimit(target.pid, number)
    resource.prlimit(target.pid, number, (used + extra_bytes, before[1]))
    return number, before


# Where it ends: at the way in, at the helper's stack, at the ring, at what the sampler reserves.
@pytest.mark.parametrize(
    ("kind", "extra_bytes"),
    [("as", 0), ("as", MIB // 5), ("as", 4 * MIB), ("as", 30 * MIB), ("data", 0)],
)
def test_limited_memory_of_the_target(run, waiting, tmp_path, kind, extra_bytes):
    number, before = limit_memory(waiting, kind, extra_bytes)
    result = run("-x", "0.1", "-o", "out", "-p", str(waiting.pid))
    resource.prlimit(waiting.pid, number, before)
    check_refusal(result, f"its {LIMITS[kind][1]} is limited to", LIMITS[kind][2])
    assert f"remedy: prlimit --pid {waiting.pid} --{kind}=unlimited" in result.stderr
    assert not (tmp_path / "out").exists()


# --- echion's own limits ---


def limited(kind, size):
    def limit():
        resource.setrlimit(kind, (size, size))

    return limit


@pytest.mark.parametrize("size", [0, 1024, MIB])
def test_limited_file_sizes_at_an_attachment(run, waiting, tmp_path, size):
    """The status is its own, not that of the signal that comes with such a limit."""
    result = run(
        "-x", "0.1", "-o", "out", "-p", waiting.pid, preexec_fn=limited(resource.RLIMIT_FSIZE, size)
    )
    check_refusal(result, "File too large", "ulimit -f")
    assert not (tmp_path / "out").exists()


# 4 are less than the program needs to begin; with 40 it does without what there is no room for.
@pytest.mark.parametrize("count", range(5, 41))
@pytest.mark.parametrize("mode", ["-p", "launch"])
def test_limited_descriptors(run, waiting, any_python, tmp_path, mode, count):
    """However far it comes, it is the descriptors that are named, or all goes well."""
    command = ["-p", str(waiting.pid)] if mode == "-p" else [any_python.path, "-S", "-c", "pass"]
    result = run(
        "-x", "0.1", "-o", "out", *command, preexec_fn=limited(resource.RLIMIT_NOFILE, count)
    )
    if (tmp_path / "out").exists():
        assert result.returncode == 0, result.stderr
        check_profile((tmp_path / "out").read_text())
    elif result.returncode == 0:
        assert mode == "launch" and "ulimit -n" in result.stderr, result.stderr
    else:
        check_refusal(result, "Too many open files", "ulimit -n")


# --- Standard output as the output ---


def test_a_profile_goes_to_standard_output(run, waiting, tmp_path):
    result = run("-x", "0.1", "-o", "-", "-p", str(waiting.pid))
    assert (result.returncode, result.stderr) == (0, "")
    assert check_profile(result.stdout).metadata["duration"]
    assert not (tmp_path / "-").exists()


def test_what_is_in_a_file_that_is_appended_to_stays(run, waiting, tmp_path):
    together = tmp_path / "together"
    together.write_text("before\n")
    with together.open("a") as file:
        assert run("-x", "0.1", "-o", "-", "-p", waiting.pid, stdout=file).returncode == 0
        file.write("behind\n")
    first, *profile, last = together.read_text().splitlines(keepends=True)
    assert (first, last) == ("before\n", "behind\n")
    check_profile("".join(profile))


def test_standard_output_that_is_closed(run, waiting):
    wrap = ["sh", "-c", 'exec "$@" >&-', "sh"]
    result = run("-x", "0.1", "-o", "-", "-p", waiting.pid, wrap=wrap)
    check_refusal(result, "cannot write standard output", "closed")


def check_not_complete(result):
    """Of a pipe without a reader: what there was to be written is lost, but for what it took."""
    check_refusal(result, "the profile on standard output is not complete (Broken pipe): ")
    assert re.search(r": \d+ bytes written, [1-9]\d* lost\n", result.stderr), result.stderr


def test_standard_output_that_nobody_reads(run, waiting):
    wrap = ["sh", "-c", '"$@" | true; exit 1', "sh"]
    result = run("-x", "0.3", "-o", "-", "-p", waiting.pid, wrap=wrap)
    check_not_complete(result)


# Begins no line that it does not end, but for the last one that it writes.
WRITES = "import os, sys, time; print('one'); time.sleep(0.1); os.system('echo two'); print('three')"
OWN_OUTPUTS = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/proc/thread-self/fd/1"]


@pytest.mark.parametrize("output", OWN_OUTPUTS)
def test_a_profile_follows_what_the_command_writes(run, any_python, tmp_path, output):
    together = tmp_path / "together"
    together.write_text("before\n")
    with together.open("a") as file:
        result = run("-o", output, any_python.path, "-u", "-c", WRITES, stdout=file)
        assert (result.returncode, result.stderr) == (0, "")
        file.write("behind\n")
    *lines, last = together.read_text().splitlines(keepends=True)
    assert [*lines[:4], last] == ["before\n", "one\n", "two\n", "three\n", "behind\n"]
    assert check_profile("".join(lines[4:])).samples


def test_a_profile_follows_a_command_that_outlives_it(run, any_python):
    code = "import time; end = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass\nprint('end')"
    result = run("-x", "0.1", "-o", "-", any_python.path, "-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("end\n# mode: ")
    check_profile(result.stdout.partition("\n")[2])


def test_no_room_for_what_is_kept_for_standard_output(run, any_python, tmp_path):
    """The reason is the folder's, and the folder is named."""
    missing = tmp_path / "missing"
    wrap = ["env", f"TMPDIR={missing}"]
    result = run("-o", "-", any_python.path, "-c", "print(1)", wrap=wrap)
    words = f"in {missing} ", "(No such file or directory)", "TMPDIR"
    check_refusal(result, "cannot write standard output: ", *words)
    assert result.stdout == ""


def test_a_status_goes_with_a_profile_on_standard_output(run, any_python):
    result = run("-o", "-", any_python.path, "-c", "raise SystemExit(7)")
    assert result.returncode == 7
    check_profile(result.stdout)


def test_a_commands_standard_output_that_nobody_reads(run, any_python):
    wrap = ["sh", "-c", '"$@" | true; exit ${PIPESTATUS[0]:-0}', "sh"]
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    wrap[0] = "bash"
    result = run("-o", "-", any_python.path, "-c", "import time; time.sleep(0.3)", wrap=wrap)
    check_not_complete(result)


def test_standard_output_stays_as_it_is_without_python(run, tmp_path):
    result = run("-o", "-", "echo", "said")
    assert (result.returncode, result.stdout) == (0, "said\n")
    assert "no Python was seen" in result.stderr


def test_a_file_may_have_that_name(run, any_python, tmp_path):
    assert run("-o", "./-", any_python.path, "-c", "pass").returncode == 0
    check_profile((tmp_path / "-").read_text())


# --- limits and surroundings of the target ---

WAIT = """
with open(os.environ["ECHION_TEST_FIFO"], "w") as ready: print("ready", os.getpid(), file=ready)
os.read(0, 1)
with open(os.environ["ECHION_TEST_REPORT"], "w") as report: report.write('{"got": "end"}')
"""
# Of a user to whom the limits apply, which root's do not.
NOBODY = """
open(os.environ["ECHION_TEST_REPORT"], "w").close()
os.chmod(os.environ["ECHION_TEST_REPORT"], 0o666)
ready, report = (os.open(os.environ["ECHION_TEST_" + name], os.O_WRONLY) for name in ("FIFO", "REPORT"))
os.setgroups([]), os.setgid(65534), os.setuid(65534)
"""
NOBODY_WAITS = """
os.write(ready, b"ready %d\\n" % os.getpid())
os.read(0, 1)
os.write(report, b'{"got": "end"}')
"""
LOCK = "assert ctypes.CDLL(None).mlockall(2) == 0\n"  # MCL_FUTURE
LIMIT = "resource.setrlimit(resource.RLIMIT_{0}, ({1}, {1}))\n"

LIMITED_TARGETS = {
    "nproc": (
        NOBODY + LIMIT.format("NPROC", 0) + NOBODY_WAITS,
        ("threads of its user are limited to 0 (ulimit -u)", "--nproc=unlimited"),
    ),
    "nofile": (
        # Of the three that are open one serves the words.
        "os.close(2)\n" + LIMIT.format("NOFILE", 3) + WAIT,
        ("open files are limited to 3 (ulimit -n)", "--nofile=1024"),
    ),
    "memlock-8K": (
        NOBODY + LIMIT.format("MEMLOCK", 8 << 10) + LOCK + NOBODY_WAITS,
        ("locked memory is limited to 8 KiB (ulimit -l)", "--memlock=unlimited"),
    ),
    "memlock-1M": (
        NOBODY + LIMIT.format("MEMLOCK", 1 << 20) + LOCK + NOBODY_WAITS,
        ("locked memory is limited to 1 MiB (ulimit -l)", "--memlock=unlimited"),
    ),
}


@pytest.mark.parametrize("name", LIMITED_TARGETS)
def test_limit_of_the_target(run, needs_root, any_python, tmp_path, name):
    code, words = LIMITED_TARGETS[name]
    command = [any_python.path, "-c", "import ctypes, os, resource\n" + code]
    with start_target(tmp_path, command) as target:
        result = run("-x", "0.1", "-o", "out", "-p", str(target.pid))
        check_refusal(result, *words)
        assert target.finish()["got"] == "end"


@pytest.mark.parametrize("kilobytes", [64, 128, 192, 256, 320, 384, 448, 512, 768])
def test_limit_on_locked_memory_wherever_it_is_reached(
    run, needs_root, any_python, tmp_path, kilobytes
):
    """Also by what is no more when the reason is looked for, such as a thread's stack."""
    code = NOBODY + LIMIT.format("MEMLOCK", kilobytes << 10) + LOCK + NOBODY_WAITS
    command = [any_python.path, "-c", "import ctypes, os, resource\n" + code]
    with start_target(tmp_path, command) as target:
        check_refusal(run("-x", "0.1", "-o", "out", "-p", str(target.pid)), "(ulimit -l)")
        assert target.finish()["got"] == "end"


def test_target_in_a_root_without_proc(run, needs_root, any_python, tmp_path):
    (tmp_path / "root").mkdir()
    code = f"""
import os
ready, report = os.open(os.environ["ECHION_TEST_FIFO"], os.O_WRONLY), os.open(
    os.environ["ECHION_TEST_REPORT"], os.O_WRONLY | os.O_CREAT)
os.chroot({str(tmp_path / "root")!r})
os.chdir("/")
"""
    with start_target(tmp_path, [any_python.path, "-c", code + NOBODY_WAITS]) as target:
        result = run("-x", "0.1", "-o", "out", "-p", str(target.pid))
        check_refusal(result, "there is no /proc in its root directory", "echion -w")
        assert target.finish()["got"] == "end"


def test_first_thread_that_has_ended_is_named_with_perf_too(run, needs_root, any_python, tmp_path):
    code = """
import ctypes, os, threading
def work():
    with open("/proc/self/stat") as stat:
        while stat.read().rpartition(")")[2].split()[0] != "Z": stat.seek(0)
    with open(os.environ["ECHION_TEST_FIFO"], "w") as ready: print("ready", os.getpid(), file=ready)
    os.read(0, 1)
    with open(os.environ["ECHION_TEST_REPORT"], "w") as report: report.write('{"got": "end"}')
    os._exit(0)
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall(60, 0)
"""
    with start_target(tmp_path, [any_python.path, "-c", code]) as target:
        result = run("-x", "0.1", "-o", "out", "-c", "--engine", "perf", "-p", str(target.pid))
        if "perf_event" in result.stderr and "No such process" not in result.stderr:
            pytest.skip(result.stderr)
        check_refusal(result, "the main thread of process", "has ended", "echion -w")
        assert target.finish()["got"] == "end"


@pytest.mark.parametrize("engine", ["auto", "clock"])
@pytest.mark.parametrize("kilobytes", [1024, 2048, 4096])
def test_echions_own_limit_on_data_blames_no_descriptors(run, any_python, kilobytes, engine):
    wrap = ["sh", "-c", f'ulimit -d {kilobytes}; exec "$@"', "sh"]
    result = run("-o", "out", "--engine", engine, any_python.path, "-c", "pass", wrap=wrap)
    check_refusal(result, "-d")
    assert "descriptors" not in result.stderr
