"""Why echion does not attach: one line with the way out, exit status 1, and the target untouched."""

from __future__ import annotations

import contextlib
import glob
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time

import pytest

import whereabouts
from attach_support import start_target
from runner import TARGETS

pytestmark = pytest.mark.usefixtures("needs_root")
PTRACE_SEIZE = 0x4206


def refused(echion, pid, *words, **keywords):
    """Attaches, and checks that it is refused with one line that holds these words."""
    result = echion.run(["-p", str(pid)], "-x", "0.1", **keywords)
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("echion: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr
    assert not result.output.exists(), "a file has been left"
    return result


def test_process_that_does_not_exist(echion):
    refused(echion, 4_194_303, "no process 4194303")


def test_number_of_a_thread(echion, any_python, tmp_path):
    with whereabouts.start_target(any_python, tmp_path, "many", "3") as target:
        pid = target.wait_ready()
        thread = max(int(one) for one in os.listdir(f"/proc/{pid}/task"))
        refused(echion, thread, f"{thread} is a thread", "not a process")


def test_process_that_is_not_python(echion):
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        refused(echion, sleeper.pid, str(sleeper.pid), "sleep", "not run CPython")
        sleeper.kill()


def test_kernel_thread(echion):
    refused(echion, 2, "kernel")


def test_zombie(echion):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    refused(echion, pid, "ended")
    os.waitpid(pid, 0)


def test_stopped_process(echion, waiting):
    os.kill(waiting.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, waiting.pid, os.WSTOPPED | os.WNOWAIT)
    refused(echion, waiting.pid, "stopped", "kill -CONT", "echion -w")
    os.kill(waiting.pid, signal.SIGCONT)


def test_traced_process(echion, waiting):
    """Names the tracer: here a process of its own."""
    tracer = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import ctypes, sys; libc = ctypes.CDLL(None)\n"
            f"assert libc.ptrace({PTRACE_SEIZE}, {waiting.pid}, 0, 0) == 0\n"
            "print('traced', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert tracer.stdout.readline() == b"traced\n"
    refused(echion, waiting.pid, "traced", str(tracer.pid), "python3")
    tracer.communicate()


def test_process_of_another_user(echion, waiting, tmp_path):
    tmp_path.chmod(0o777)
    refused(
        echion,
        waiting.pid,
        "uid 0",
        "uid 65534",
        "sudo",
        wrap=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
    )


def test_own_process_without_the_capability(echion, waiting):
    """Root without CAP_SYS_PTRACE may still trace its own processes, if they have no more rights."""
    result = echion.run(
        ["-p", str(waiting.pid)],
        "-x",
        "0.1",
        wrap=["setpriv", "--inh-caps=-all", "--bounding-set=-all"],
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1


@pytest.fixture
def program_32_bit(tmp_path):
    source = tmp_path / "wait.c"
    source.write_text("#include <unistd.h>\nint main(void) { pause(); }\n")
    program = tmp_path / "wait32"
    if subprocess.run(["gcc", "-m32", source, "-o", program], capture_output=True).returncode:
        pytest.skip("no 32-bit compiler")
    return program


def test_32_bit_process(echion, program_32_bit):
    with subprocess.Popen([program_32_bit]) as process:
        refused(echion, process.pid, "32-bit", "i686")
        process.kill()


def test_unsupported_version(echion):
    root = os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))
    old = sorted(glob.glob(f"{root}/versions/3.[67].*/bin/python3"))
    if not old:
        pytest.skip("no older CPython here")
    with subprocess.Popen([old[-1], "-c", "print(1, flush=True); input()"], stdin=-1, stdout=-1) as one:
        one.stdout.readline()
        refused(echion, one.pid, "3.7.", "3.8 to 3.15")
        one.communicate(b"\n")


def test_agent_that_the_loader_refuses(build_dir, waiting, tmp_path):
    """A library that needs what is not there: the loader's own words reach the user."""
    broken = tmp_path / "broken.so"
    source = tmp_path / "broken.c"
    source.write_text("void nowhere(void); int echion_attach(int fd) { nowhere(); return 0; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", source, "-o", broken], check=True)
    probe = build_dir / "tests/tools/attach_probe"
    threads, descriptors = waiting.threads(), waiting.descriptors()
    result = subprocess.run([probe, str(waiting.pid), broken], capture_output=True, text=True)
    assert result.returncode == 1
    assert "undefined symbol: nowhere" in result.stdout
    waiting.wait_for_threads(threads)
    assert waiting.descriptors() == descriptors


def test_no_memory_for_data_left(echion, waiting):
    """The limit counts what is writable: the region is mapped, and cannot be made that."""
    maps, limit = mappings(waiting.pid), resource.prlimit(waiting.pid, resource.RLIMIT_DATA)
    resource.prlimit(waiting.pid, resource.RLIMIT_DATA, (4096, limit[1]))
    refused(echion, waiting.pid, "map memory", "Cannot allocate memory")
    resource.prlimit(waiting.pid, resource.RLIMIT_DATA, limit)
    assert mappings(waiting.pid) == maps


def mappings(pid):
    return open(f"/proc/{pid}/maps").read()


FILTERED = """
import os, runpy, sys
sys.path.insert(0, os.environ["TARGETS"])
import without_vm_readv
without_vm_readv.install(int(sys.argv[1]))
sys.argv = ["waits.py", "raw_read"]
runpy.run_path(os.environ["TARGETS"] + "/waits.py", run_name="__main__")
"""
SYS_PPOLL, SYS_MEMFD_CREATE = 271, 319


@pytest.mark.parametrize(
    "call, words", [(SYS_PPOLL, "refuses ppoll"), (SYS_MEMFD_CREATE, "refuses memfd_create")]
)
def test_target_whose_filter_forbids_a_call(echion, any_python, tmp_path, call, words):
    command = [any_python.path, "-c", FILTERED, str(call)]
    with start_target(tmp_path, command, env={"TARGETS": str(TARGETS)}) as target:
        target.wait_for_call(0)
        threads, descriptors = target.threads(), target.descriptors()
        refused(echion, target.pid, words)
        target.wait_for_threads(threads)
        assert target.descriptors() == descriptors
        report = target.finish()
    assert report["got"] == report["wanted"]


@pytest.fixture
def frozen_group():
    """A control group of this test's own, of the first or the second version."""
    group, *names = make_freezable_group()
    yield group, *names
    group.rmdir()


def make_freezable_group():
    for line in open("/proc/mounts"):
        _device, place, kind, options, *_rest = line.split()
        is_old = kind == "cgroup" and "freezer" in options.split(",")
        group = pathlib.Path(place) / f"echion-test-{os.getpid()}"
        if not is_old and kind != "cgroup2":
            continue
        with contextlib.suppress(OSError):
            group.mkdir()
            names = ("freezer.state", "FROZEN", "THAWED") if is_old else ("cgroup.freeze", "1", "0")
            if (group / names[0]).exists():
                return group, *names
            group.rmdir()
    pytest.skip("no control groups that can be frozen")


def test_frozen_process(echion, frozen_group, waiting):
    group, switch, freeze, thaw = frozen_group
    (group / "cgroup.procs").write_text(str(waiting.pid))
    try:
        (group / switch).write_text(freeze)
        whereabouts.wait_until(lambda: is_frozen(group), "the group is frozen", 60)
        refused(echion, waiting.pid, "frozen", "docker pause", "echion -w")
    finally:
        (group / switch).write_text(thaw)


def is_frozen(group):
    events, state = group / "cgroup.events", group / "freezer.state"
    if state.exists():
        return state.read_text() == "FROZEN\n"
    return "frozen 1\n" in events.read_text()


DEEP_SLEEP = """
#define _GNU_SOURCE
#include <unistd.h>
/* The parent of a vfork() sleeps uninterruptibly until the child ends: at the end of input. */
int sleep_deeply(void) {
    char byte;
    if (vfork() == 0) {
        while (read(0, &byte, 1) > 0) {
        }
        _exit(0);
    }
    return 42;
}
"""


def test_uninterruptible_sleep(echion, any_python, tmp_path):
    source, library = tmp_path / "deep.c", tmp_path / "deep.so"
    source.write_text(DEEP_SLEEP)
    subprocess.run(["gcc", "-shared", "-fPIC", source, "-o", library], check=True)
    code = (
        "import ctypes, sys, os; sys.path.insert(0, os.environ['TARGETS']);"
        "from _support import ready, report; deep = ctypes.CDLL(sys.argv[1]); ready();"
        "report(got=deep.sleep_deeply())"
    )
    command = [any_python.path, "-c", code, library]
    with start_target(tmp_path, command, env={"TARGETS": str(TARGETS)}) as sleeping:
        while state_of(sleeping.pid) != "D":
            time.sleep(0.005)
        refused(echion, sleeping.pid, "uninterruptible", "state D", "echion -w")
        assert sleeping.finish()["got"] == 42


def state_of(pid):
    return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]


def test_no_descriptors_left(echion, waiting):
    """The target is at its limit of open files."""
    limit = resource.prlimit(waiting.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(waiting.pid, resource.RLIMIT_NOFILE, (3, limit[1]))
    refused(echion, waiting.pid, "socket", "Too many open files")
    resource.prlimit(waiting.pid, resource.RLIMIT_NOFILE, limit)


def test_output_that_cannot_be_written_leaves_the_target_alone(echion, waiting):
    switches = voluntary_switches(waiting.pid)
    result = echion.run(["-p", str(waiting.pid)], "-x", "0.1", output="/nowhere/out.austin")
    assert result.returncode == 1
    assert "/nowhere/out.austin" in result.stderr
    assert voluntary_switches(waiting.pid) == switches, "the target has been stopped"


def voluntary_switches(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    return None
