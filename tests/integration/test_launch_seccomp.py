"""Filters of launched programs: what is refused is done without, or told; never in silence."""

from __future__ import annotations

import json
import os
import select
import subprocess

import pytest

from conftest import PYTHON
from runner import TARGETS, TIMEOUT_S
from seccomp_filters import ALLOW, EPERM, ERRNO, KILL_THREAD, NUMBERS, answer, match
from test_engines import BURN

pytestmark = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filters are for x86-64")

SOURCE = """
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>
/* wrap NUMBER COMMAND...: the system call of that number fails with EPERM in the command. */
int main(int count, char** words) {
    struct sock_filter filter[] = {{0x20, 0, 0, 0},
                                   {0x15, 0, 1, (unsigned)atoi(words[1])},
                                   {0x06, 0, 0, SECCOMP_RET_ERRNO | 1},
                                   {0x06, 0, 0, SECCOMP_RET_ALLOW}};
    struct sock_fprog program = {4, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, 2, &program, 0, 0)) {
        return 99;
    }
    execvp(words[2], words + 2);
    return 98;
}
"""


@pytest.fixture(scope="module")
def wrap(tmp_path_factory):
    """Runs a command without a system call; not a Python program, which would be sampled as well."""
    folder = tmp_path_factory.mktemp("wrap")
    (folder / "wrap.c").write_text(SOURCE)
    subprocess.run(["gcc", folder / "wrap.c", "-o", folder / "wrap"], check=True)
    return lambda call: [folder / "wrap", str(NUMBERS[call])]


def assert_whole(profile):
    """Both halves of BURN, each of as much CPU time; how long that takes on a busy machine varies."""
    early, late = (profile.total_with(name) for name in ("early", "late"))
    assert min(early, late) > max(early, late) / 5, "a part of the program is missing"


@pytest.mark.parametrize("options", ["", "-c"])
def test_without_signals_to_wait_for_it_keeps_time_by_itself(echion, engine, wrap, options):
    """The kernel's ticks come as signals. The profile is whole, and it is told who ticked."""
    command = [*wrap("rt_sigtimedwait"), PYTHON, "-c", BURN]
    result = echion.run(command, *options.split()).check()
    assert result.profile.header["engine"] == "nanosleep"
    if engine == "bpf":
        assert "not ticked by the kernel" in result.stderr and "rt_sigtimedwait" in result.stderr
    assert_whole(result.profile)


def test_an_engine_that_was_asked_for_is_not_replaced(echion, engine, wrap):
    if engine != "bpf":
        pytest.skip("the sampler's own clock needs no signals")
    command = [*wrap("rt_sigtimedwait"), PYTHON, "-c", BURN]
    result = echion.run(command, "-c", "--engine", "bpf")
    assert "--engine bpf cannot be had" in result.stderr and "rt_sigtimedwait" in result.stderr


@pytest.mark.parametrize("call", ["clock_nanosleep", "ppoll", "sendto", "recvfrom", "getrusage"])
def test_calls_that_it_can_do_without(echion, wrap, call):
    command = [*wrap(call), PYTHON, "-c", BURN]
    result = echion.run(command, "--engine", "clock").check()
    assert_whole(result.profile)


@pytest.mark.parametrize(
    "call, options, words",
    [
        ("clock_gettime", ["-c"], "clock_gettime is refused: Operation not permitted"),
        ("recvmsg", [], "recvmsg: Operation not permitted"),
    ],
)
def test_calls_without_which_it_says_why(echion, wrap, call, options, words):
    # Without clock_gettime, Python's time.thread_time() fails.
    program = "for _ in range(10**7): pass"
    command = [*wrap(call), PYTHON, "-c", program]
    result = echion.run(command, "--engine", "clock", *options)
    assert words in result.stderr


def start_locking(echion, tmp_path, *options, refuse, action=ERRNO | EPERM, kind="later", **streams):
    """A program that works, locks up all of its threads, and works on."""
    place = tmp_path / "filters.json"
    place.write_text(json.dumps([match([(NUMBERS[call], {}) for call in refuse], action, ALLOW)]))
    command = [PYTHON, TARGETS / "filtered.py", str(place), kind]
    return echion.start(command, *options, **streams)


@pytest.mark.parametrize(
    "refuse, options, words",
    [
        (["process_vm_writev", "process_vm_readv", "openat"], [], "process_vm_readv"),
        (["clock_nanosleep", "ppoll"], [], "ppoll"),
        (["clock_gettime"], ["-c"], "clock_gettime"),
        (["rt_sigtimedwait"], ["bpf"], "rt_sigtimedwait"),
    ],
)
def test_a_program_that_locks_itself_up_later(echion, tmp_path, engine, refuse, options, words):
    """What was sampled until then is in the profile, and it is said why there is no more."""
    wants_kernel = options == ["bpf"]
    if wants_kernel != (engine == "bpf"):
        pytest.skip("a matter of the other engine")
    given = [] if wants_kernel else [*options, "--engine", "clock"]
    with start_locking(echion, tmp_path, *given, refuse=refuse) as running:
        running.wait_for("locked")
        result = running.finish()
    assert words in result.stderr
    assert result.report["got"] == "end"
    assert result.profile.total_with("before")


def test_a_sampler_that_is_killed_alone_is_missed(echion, tmp_path):
    """The program goes on, so that nothing else would tell that most of it is not in the profile."""
    refuse = ["process_vm_writev", "process_vm_readv"]
    options = ["--engine", "clock"]
    with start_locking(
        echion, tmp_path, *options, refuse=refuse, action=KILL_THREAD, kind="on", stdin=subprocess.PIPE
    ) as running:
        running.wait_for("locked")
        # By what echion says: the rest of it comes at the end.
        assert select.select([running.process.stderr], [], [], TIMEOUT_S)[0], "nothing was said"
        said = running.process.stderr.readline()
        result = running.finish()
    assert "was not sampled to its end" in said and "seccomp" in said, said
    assert result.returncode == 0
    assert result.report["got"] == "end"
    assert result.profile.total_with("before")
