"""What where mode cannot do, it says in one line with the way out, and exits 1."""

import os
import pathlib
import stat
import subprocess
import sys

import pytest

from places import copy_for_all, open_to_all
from runner import TARGETS
from whereabouts import Where, start_target, wait_until

NOBODY = 65534


@pytest.fixture
def where(build_dir) -> Where:
    return Where(build_dir / "echion")


def refusal(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("echion: ")
    assert done.stderr.count("\n") == 1 and done.stderr.endswith("\n")
    return done.stderr


def free_pid() -> int:
    return next(n for n in range(4_000_000, 2, -1) if not os.path.exists(f"/proc/{n}"))


def as_nobody(where: Where, tmp_path: pathlib.Path, pid: int, *options: str):
    # The build folder may lie where nobody may not go.
    open_to_all(tmp_path)
    copy_for_all([where.program], tmp_path)
    return Where(tmp_path / where.program.name).run(
        pid, *options, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/"
    )


def test_no_such_process(where):
    pid = free_pid()
    assert f"no process {pid}" in refusal(where.run(pid))


@pytest.mark.parametrize("options", [[], ["--json"], ["-x", "600"]])
def test_number_of_a_thread(where, any_python, tmp_path, options):
    with start_target(any_python, tmp_path, "many", "3") as target:
        pid = target.wait_ready()
        thread = max(int(one) for one in os.listdir(f"/proc/{pid}/task"))
        text = refusal(where.run(thread, *options))
    assert f"{thread} is a thread, not a process: give the id of its process, {pid}" in text


@pytest.mark.parametrize("options", [[], ["--json"], ["-x", "0.2"], ["--json", "-x", "0.2"]])
def test_nobody_reads_the_report(where, any_python, tmp_path, options):
    """Status 1, and no death by a signal."""
    with start_target(any_python, tmp_path, "sleeping") as target:
        command = [where.program, *options, "-w", str(target.wait_ready())]
        reading, writing = os.pipe()
        os.close(reading)
        streams = {"stdout" if "--json" in options else "stderr": writing}
        for name in {"stdout", "stderr"} - set(streams):
            streams[name] = subprocess.PIPE
        process = subprocess.Popen(command, **streams)
        os.close(writing)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    if told is not None:
        assert b"could not be written: Broken pipe" in told


def test_not_python(where):
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            wait_until(
                lambda: os.readlink(f"/proc/{process.pid}/exe").endswith("sleep"), "exec of sleep"
            )
            text = refusal(where.run(process.pid))
            assert f"process {process.pid} (sleep)" in text and "not run CPython" in text
        finally:
            process.kill()


def test_a_kernel_thread(where):
    kthreadd = pathlib.Path("/proc/2/status")
    if not kthreadd.exists() or "VmSize" in kthreadd.read_text():
        pytest.skip("no kernel threads to be seen here")
    assert "thread of the kernel" in refusal(where.run(2))


def test_a_process_that_has_ended_and_not_been_reaped(where):
    process = subprocess.Popen(["true"])
    try:
        wait_until(
            lambda: ") Z" in pathlib.Path(f"/proc/{process.pid}/stat").read_text(), "a zombie"
        )
        assert "has ended" in refusal(where.run(process.pid))
    finally:
        process.wait()


def test_a_32_bit_program(where, tmp_path):
    source = tmp_path / "sleeper.c"
    source.write_text("#include <unistd.h>\nint main(void) { write(1, \"x\", 1); pause(); }\n")
    program = tmp_path / "sleeper"
    built = subprocess.run(["gcc", "-m32", "-o", program, source], capture_output=True)
    if built.returncode != 0:
        pytest.skip("gcc -m32 does not work here")
    with subprocess.Popen([program], stdout=subprocess.PIPE) as process:
        try:
            process.stdout.read(1)
            text = refusal(where.run(process.pid))
            assert "32-bit" in text and "i686" in text
        finally:
            process.kill()


def test_an_unsupported_version(where, tmp_path):
    root = pathlib.Path(os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv")))
    old = sorted(root.glob("versions/3.[67].*/bin/python3"))
    if not old:
        pytest.skip("no CPython 3.6 or 3.7 here")
    for python in old:
        with subprocess.Popen(
            [python, "-c", "print('x', flush=True); input()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            process.stdout.read(1)
            text = refusal(where.run(process.pid))
            assert "3.8 to 3.15" in text
            process.communicate(b"\n")


@pytest.mark.usefixtures("needs_root")
def test_no_permission(where, any_python, tmp_path):
    with start_target(any_python, tmp_path, "sleeping") as target:
        text = refusal(as_nobody(where, tmp_path, target.wait_ready()))
        assert "it belongs to uid 0" in text and "CAP_SYS_PTRACE" in text and "sudo" in text


@pytest.mark.usefixtures("needs_root")
def test_a_process_of_another_user(where, python, tmp_path):
    wrap = ["/usr/bin/setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    if not is_open_to_all(python.path) or not is_open_to_all(TARGETS):
        wrap += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    open_to_all(tmp_path)
    with start_target(python, tmp_path, "sleeping", wrap=wrap) as target:
        pid = target.wait_ready()
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        assert f"Uid:\t{NOBODY}" in status
        where.threads_when(
            pid,
            lambda found: found["MainThread"].functions[-2:] == ["sleeping", "sleep_here"],
            "the main thread in sleep_here",
        )


@pytest.mark.usefixtures("needs_root")
def test_a_container(where, python, tmp_path):
    """Other PID, mount, user and network namespaces, and another root of the file system."""
    wrap = ["unshare", "--pid", "--mount", "--net", "--ipc", "--uts", "--fork", "--mount-proc"]
    with start_target(python, tmp_path, "many", "3", wrap=wrap) as target:
        own_pid = target.wait_ready()
        (pid,) = [
            int(entry.name)
            for entry in pathlib.Path("/proc").iterdir()
            if entry.name.isdigit() and is_child(int(entry.name), target.process.pid)
        ]
        assert own_pid != pid
        document = where.json(pid)
        assert (document["pid"], document["own_pid"]) == (pid, own_pid)
        for thread in document["threads"]:
            status = pathlib.Path(f"/proc/{pid}/task/{thread['native_id']}/status").read_text()
            assert f"NSpid:\t{thread['native_id']}\t{thread['own_native_id']}\n" in status
        assert f"thread {pid} (own id {own_pid})" in where.run(pid).stderr


def is_open_to_all(path: str | os.PathLike[str]) -> bool:
    """False for what is in somebody's home folder, which others may not enter."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in pathlib.Path(path).resolve().parents)


def is_child(pid: int, parent: int) -> bool:
    try:
        line = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return int(line.rpartition(")")[2].split()[1]) == parent
