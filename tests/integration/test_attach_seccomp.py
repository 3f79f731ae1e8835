"""Attaching to programs under seccomp filters: nobody is killed, and the reason names the call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from attach_support import start_target
from interpreters import find_interpreters
from runner import TARGETS
from seccomp_filters import (
    ALLOW,
    ARGUMENTS,
    ENOSYS,
    EPERM,
    ERRNO,
    KILL,
    KILL_THREAD,
    LOG,
    NOTIFY,
    NUMBERS,
    TRAP,
    answer,
    answer_argument,
    match,
    start_filtered,
)
from test_attach_refusals import refused

pytestmark = [
    pytest.mark.usefixtures("needs_root"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filters are for x86-64"),
]

OLDEST_AND_NEWEST = [find_interpreters()[0], find_interpreters()[-1]] if find_interpreters() else []


def attach(echion, target, *options):
    return echion.run(["-p", str(target.pid)], "-x", "0.3", *options).check()


def finish(target):
    assert target.finish()["got"] == "end"


# What a filter may kill on, and what the reason then says: calls of the borrowed thread, of the C
# library's for a thread, of the helper, of the dynamic loader, of the sampler alone.
@pytest.mark.parametrize(
    "call",
    ["socketpair", "memfd_create", "ppoll", "madvise", "process_vm_writev", "rt_sigtimedwait"],
)
def test_filter_that_kills_on_a_call(echion, any_python, tmp_path, call):
    with start_filtered(tmp_path, any_python, [answer(KILL, call)]) as target:
        threads, descriptors = target.threads(), target.descriptors()
        refused(echion, target.pid, "seccomp filter kills on " + call, "echion -w")
        assert target.threads() == threads and target.descriptors() == descriptors
        finish(target)


@pytest.mark.parametrize(
    "value, words",
    [
        (KILL_THREAD, "kills on memfd_create"),
        (TRAP, "answers memfd_create with a signal (SIGSYS)"),
        (ERRNO | EPERM, "refuses memfd_create (Operation not permitted)"),
        (NOTIFY, "makes memfd_create wait for another process's consent"),
        (0x12340000, "kills on memfd_create"),  # an action that the kernel does not know
    ],
)
def test_what_a_filter_may_answer(echion, any_python, tmp_path, value, words):
    with start_filtered(tmp_path, any_python, [answer(value, "memfd_create")]) as target:
        refused(echion, target.pid, words)
        finish(target)


@pytest.mark.parametrize("call", ["rseq", "futex", "munmap"])
def test_calls_without_which_the_c_library_aborts(echion, any_python, tmp_path, call):
    """Refused by an errno, they would end the target as surely as a filter that kills."""
    with start_filtered(tmp_path, any_python, [answer(ERRNO | EPERM, call)]) as target:
        refused(echion, target.pid, "seccomp filter refuses " + call, "echion -w")
        assert target.is_alive()


def test_all_filters_of_a_thread_count(echion, any_python, tmp_path):
    filters = [answer(LOG, "getpid"), answer(KILL, "memfd_create")]
    filters += [answer(ALLOW, "memfd_create")] * 100
    with start_filtered(tmp_path, any_python, filters) as target:
        refused(echion, target.pid, "kills on memfd_create")
        finish(target)


def test_filter_on_an_argument(echion, any_python, tmp_path):
    """Of constant arguments it is known which of them a filter means."""
    af_unix, af_inet6 = 1, 10
    harmless = answer_argument(KILL, "socketpair", 0, af_inet6)
    with start_filtered(tmp_path, any_python, [harmless]) as target:
        attach(echion, target)
        finish(target)
    deadly = answer_argument(KILL, "socketpair", 0, af_unix)
    with start_filtered(tmp_path, any_python, [deadly]) as target:
        refused(echion, target.pid, "kills on socketpair")
        finish(target)


def test_filter_on_what_cannot_be_known(echion, any_python, tmp_path):
    """That the memory is at an address which no program has, only the user can know."""
    filters = [answer_argument(KILL, "madvise", 0, 0x1001)]
    with start_filtered(tmp_path, any_python, filters) as target:
        refused(echion, target.pid, "may kill on madvise", "--allow-seccomp")
        attach(echion, target, "--allow-seccomp")
        finish(target)


def test_the_option_does_not_make_a_deadly_filter_pass(echion, any_python, tmp_path):
    with start_filtered(tmp_path, any_python, [answer(KILL, "memfd_create")]) as target:
        result = echion.run(["-p", str(target.pid)], "-x", "0.1", "--allow-seccomp")
        assert result.returncode == 1 and "kills on memfd_create" in result.stderr
        finish(target)


# Calls that are made in every process, and those by which this C library makes threads and sees
# what a file is: to kill on them is the end, which the option does not allow. Where there is another
# way for them, that is for an errno alone.
@pytest.mark.parametrize("value", [KILL, TRAP], ids=["kill", "trap"])
@pytest.mark.parametrize(
    "call", ["clone3", "close_range", "pread64", "poll", "sched_getaffinity", "newfstatat", "fstat"]
)
def test_the_option_does_not_make_calls_pass_that_have_another_way(
    echion, any_python, tmp_path, value, call
):
    with start_filtered(tmp_path, any_python, [answer(value, call)]) as target:
        result = echion.run(["-p", str(target.pid)], "-x", "0.1", "--allow-seccomp")
        if result.returncode:
            word = "kills on" if value == KILL else "answers"
            assert f"seccomp filter {word} {call}" in result.stderr, result.stderr
        else:  # another C library has no need of it
            assert call in ("clone3", "newfstatat")
        finish(target)


# The C library decides which calls are made: the machine's, and the one that came with an interpreter.
BY_C_LIBRARY = {one.has_own_c_library: one for one in find_interpreters()}


@pytest.mark.parametrize("interpreter", BY_C_LIBRARY.values(), ids=lambda one: one.name)
def test_each_call_of_the_table_kills_nobody(echion, interpreter, tmp_path, needed_calls):
    """What --allow-seccomp lets pass is not made in a process like this one: no filter that kills
    on one set of arguments of the table's ends it."""
    for place, rule in enumerate(needed_calls):
        if rule[0] == NUMBERS["read"]:  # the target's own
            continue
        folder = tmp_path / str(place)
        folder.mkdir()
        with start_filtered(folder, interpreter, [match([rule], KILL, ALLOW)]) as target:
            echion.run(["-p", str(target.pid)], "-x", "0.05", "--allow-seccomp")
            assert target.is_alive(), rule


def test_only_the_borrowed_threads_filters_count(echion, any_python, tmp_path):
    """A thread that has locked up itself alone is no obstacle, nor is it borrowed."""
    filters = [answer(KILL, "socketpair")]
    with start_filtered(tmp_path, any_python, filters, "worker") as target:
        result = attach(echion, target, "-v")
        assert f"thread {target.pid} was stopped" in result.stderr
        finish(target)


STRICT = """
import ctypes, os
report = os.open(os.environ["ECHION_TEST_REPORT"], os.O_WRONLY | os.O_CREAT, 0o666)
ready = os.open(os.environ["ECHION_TEST_FIFO"], os.O_WRONLY)
libc, word = ctypes.CDLL(None), b"ready %d\\n" % os.getpid()
assert libc.prctl(22, 1, 0, 0, 0) == 0
libc.write(ready, word, len(word))
libc.read(0, ctypes.create_string_buffer(8), 8)
libc.write(report, b'{"got": "end"}', 14)
libc.syscall(60, 0)
"""


def test_strict_mode(echion, any_python, tmp_path):
    with start_target(tmp_path, [any_python.path, "-c", STRICT]) as target:
        refused(echion, target.pid, "strict mode", "echion -w")
        finish(target)


# As a container runtime's default: an allow-list (here of what its kind is for), an errno for the
# rest, and clone3 as if the kernel did not know it.
REFUSED_BY_CONTAINERS = (
    "acct add_key bpf clock_adjtime delete_module finit_module fsconfig init_module io_uring_setup "
    "kexec_load keyctl mount move_mount open_tree perf_event_open pivot_root process_vm_readv "
    "process_vm_writev ptrace quotactl reboot request_key setns swapon umount2 unshare userfaultfd"
).split()


def container_filter():
    allowed = [(number, {}) for name, number in NUMBERS.items() if name not in REFUSED_BY_CONTAINERS]
    return [match(allowed, ALLOW, ERRNO | EPERM), answer(ERRNO | ENOSYS, "clone3")]


@pytest.mark.parametrize("kind", ["waits", "sleeps"])
def test_container_runtimes_filter(echion, any_python, tmp_path, kind):
    with start_filtered(tmp_path, any_python, container_filter(), kind) as target:
        result = attach(echion, target)
        finish(target)
    assert result.profile.total_with(kind, thread="MainThread")


@pytest.fixture(scope="module")
def needed_calls(build_dir):
    """The table in inject/needed_calls.cpp, as rules."""
    printed = subprocess.run(
        [build_dir / "tests/tools/needed_calls"], capture_output=True, text=True, check=True
    ).stdout
    rules = []
    for line in printed.splitlines():
        number, *words = line.split()
        rules.append(
            (
                int(number),
                {ARGUMENTS + 4 * i: int(word) for i, word in enumerate(words) if word != "-"},
            )
        )
    return rules


@pytest.fixture(scope="module")
def allow_list(needed_calls):
    """A filter that kills on all calls but those of the table."""
    # And what the target does by itself. No more, or it would cover what is missing.
    rules = list(needed_calls)
    rules.append((NUMBERS["read"], {ARGUMENTS: 0}))
    rules += [(NUMBERS[call], {}) for call in ("write", "exit_group", "fcntl", "ioctl")]
    return match(rules, ALLOW, KILL)


@pytest.mark.parametrize("options", ["--engine clock", "--engine bpf", "-c --engine perf", "-c"])
@pytest.mark.parametrize("interpreter", OLDEST_AND_NEWEST, ids=lambda one: one.name)
def test_the_table_of_needed_calls_is_complete(
    echion, interpreter, tmp_path, allow_list, options
):
    """A target that may make no other call lives, is sampled, dumped by SIGQUIT, and left."""
    with start_filtered(tmp_path, interpreter, [allow_list], "spins") as target:
        arguments = ["-p", str(target.pid), *options.split()]
        with echion.start(arguments, "-x", "0.8") as running:
            target.wait_until_sampled()
            os.kill(target.pid, signal.SIGQUIT)
            running.finish().check()
        attach(echion, target)  # once more, to the agent that is there
        finish(target)


def test_a_call_that_the_kernel_restarts_itself(echion, tmp_path):
    """A thread in poll(2) goes on by restart_syscall(2), which the stop alone makes it call: where
    that kills, the call is made to end by EINTR, and Python waits anew for what is left."""
    filters = [answer(KILL, "restart_syscall")]
    # glibc's poll() is ppoll(2) from 2.43 on.
    found = [one for one in find_interpreters() if not one.has_own_c_library]
    if not found:
        pytest.skip("no interpreter that is tested with has this machine's C library")
    with start_filtered(tmp_path, found[-1], filters, "sleep") as target:
        target.wait_for_call(NUMBERS["poll"])
        attach(echion, target)
        finish(target)


def test_echion_under_a_filter_of_its_own(echion, any_python, tmp_path):
    """The kernel then shows it nobody's."""
    under_one = [sys.executable, TARGETS / "without_perf_events.py"]
    with start_filtered(tmp_path, any_python, [answer(ERRNO | EPERM, "acct")]) as target:
        refused(echion, target.pid, "it runs under one itself", "--allow-seccomp", wrap=under_one)
        finish(target)


def test_filter_that_may_not_be_read(echion, any_python, tmp_path):
    """Without CAP_SYS_ADMIN: refused, unless the user says that the filter does no harm."""
    without = ["setpriv", "--inh-caps=-sys_admin", "--bounding-set=-sys_admin"]
    with start_filtered(tmp_path, any_python, [answer(ERRNO | EPERM, "acct")]) as target:
        refused(echion, target.pid, "seccomp", "CAP_SYS_ADMIN", "--allow-seccomp", wrap=without)
        options = ["-x", "0.2", "--engine", "clock", "--allow-seccomp"]
        echion.run(["-p", str(target.pid)], *options, wrap=without).check()
        finish(target)


@pytest.mark.parametrize("call", ["clone3", "madvise"])
def test_filter_that_was_not_read_is_the_likely_cause(echion, any_python, tmp_path, call):
    """What it refuses shows only when it is done: then it is named."""
    without = ["setpriv", "--inh-caps=-sys_admin", "--bounding-set=-sys_admin"]
    with start_filtered(tmp_path, any_python, [answer(ERRNO | EPERM, call)]) as target:
        options = ["-x", "0.2", "--engine", "clock", "--allow-seccomp"]
        result = echion.run(["-p", str(target.pid)], *options, wrap=without)
        if result.returncode:
            words = ("Operation not permitted", "its seccomp filter is the likely cause")
            assert all(word in result.stderr for word in words), result.stderr
        else:
            assert call == "clone3", "only a C library that makes threads by clone does without"
        finish(target)


@pytest.mark.parametrize("call", ["clone3", "madvise"])
def test_filter_that_was_read_is_named_beforehand(echion, any_python, tmp_path, call):
    with start_filtered(tmp_path, any_python, [answer(ERRNO | EPERM, call)]) as target:
        result = echion.run(["-p", str(target.pid)], "-x", "0.1")
        if result.returncode or call != "clone3":
            assert f"seccomp filter refuses {call} (Operation" in result.stderr, result.stderr
        finish(target)
