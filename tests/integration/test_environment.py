"""Wrappers, refused system calls, programs that are no Python, and outputs that fail."""

import os
import pathlib
import shutil
import stat
import subprocess
import sys

import pytest

from runner import TARGETS, Result

SHARES = str(TARGETS / "shares.py")
FULL_DISK_BYTES = 64 * 1024


def assert_sampled(result: Result, at_least_s: float = 0.4) -> None:
    assert result.returncode == 0, result.stderr
    # What a sampler that did not get a CPU has missed, the profile says.
    profile = result.profile
    seen = profile.total_with("main", "work", "sixty") + profile.figure("missed_us")
    assert seen >= at_least_s * 1e6


# --- wrappers ----------------------------------------------------------------------------------


def test_through_a_shell(echion, every_python):
    command = f"true; '{every_python.path}' '{SHARES}' 1; exit $?"
    assert_sampled(echion.run(["sh", "-c", command]))


def test_through_env(echion, any_python):
    assert_sampled(echion.run(["env", "A=b", any_python.path, SHARES, "1"]))


def test_through_a_console_script(echion, any_python, tmp_path):
    script = tmp_path / "console-script"
    script.write_text(f"#!{any_python.path}\nimport runpy, sys\nsys.path.insert(0, {str(TARGETS)!r})\n"
                      f"sys.argv = ['x', '1']\nrunpy.run_path({SHARES!r}, run_name='__main__')\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    assert_sampled(echion.run([script]))


def test_through_a_virtual_environment(echion, python, tmp_path):
    folder = tmp_path / "venv"
    made = subprocess.run(
        [python.path, "-m", "venv", "--without-pip", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"this interpreter cannot make virtual environments: {made.stderr[:80]}")
    assert_sampled(echion.run([folder / "bin" / "python", SHARES, "1"]))


def test_the_commands_own_options_are_not_ours(echion, any_python):
    code = "import sys; print(sys.argv[1:]); sys.exit(sys.argv[1:] != ['-i', '-x', '--help', '--'])"
    result = echion.run([any_python.path, "-c", code, "-i", "-x", "--help", "--"])
    assert result.returncode == 0, result.stdout


def test_standard_streams_and_folder_pass_through(echion, any_python, tmp_path):
    code = "import os, sys; print(os.getcwd(), sys.stdin.read()); print('err', file=sys.stderr)"
    source = tmp_path / "input"
    source.write_text("given")
    with open(source) as stdin:
        result = echion.run([any_python.path, "-c", code], stdin=stdin, cwd=tmp_path)
    assert result.stdout == f"{tmp_path} given\n"
    assert "err\n" in result.stderr


def test_the_program_sees_no_trace_in_its_environment(echion, any_python):
    """What was added to start the agent is taken out again, or does not hurt a child."""
    code = "import subprocess, sys; sys.exit(subprocess.call(['/bin/true']))"
    result = echion.run([any_python.path, "-c", code]).check()
    assert "ERROR: ld.so" not in result.stderr


def test_a_preload_that_was_there_stays(echion, any_python, tmp_path):
    library = tmp_path / "mine.so"
    source = tmp_path / "mine.c"
    source.write_text("int echion_test_preload_is_there(void) { return 42; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).echion_test_preload_is_there())"
    result = echion.run([any_python.path, "-c", code], env={"LD_PRELOAD": str(library)})
    assert result.returncode == 42, result.stderr


# The agent makes two threads, before the program begins; the program waits a second for them.
SECOND_THREAD_FAILS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
static int made;
int pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*start)(void *), void *argument) {
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    real = dlsym(RTLD_NEXT, "pthread_create");
    if (getenv("ECHION_CHANNEL") == NULL || ++made != 2) return real(t, a, start, argument);
    struct timespec delay = {atoi(getenv("ECHION_TEST_DELAY_S")), 0};
    nanosleep(&delay, NULL);
    return EAGAIN;
}
"""


@pytest.mark.parametrize("delay_s", [0, 2], ids=["at_once", "late"])
def test_an_agent_without_its_threads_is_told_of(echion, any_python, tmp_path, delay_s):
    library = tmp_path / "fails.so"
    source = tmp_path / "fails.c"
    source.write_text(SECOND_THREAD_FAILS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    env = {"LD_PRELOAD": str(library), "ECHION_TEST_DELAY_S": str(delay_s)}
    code = "import sys, time; time.sleep(3); sys.exit(5)"
    result = echion.run([any_python.path, "-c", code], env=env)
    assert result.returncode == 5, result.stderr
    assert "the agent's threads cannot be made" in result.stderr


# --- what is not Python ------------------------------------------------------------------------


def test_a_program_that_is_not_python_says_so(echion):
    result = echion.run(["/bin/sh", "-c", "exit 6"])
    assert result.returncode == 6
    assert "Python" in result.stderr


def test_a_static_program_says_that_the_preload_was_ignored(echion, tmp_path):
    source = tmp_path / "static.c"
    source.write_text("int main(void) { return 5; }\n")
    program = tmp_path / "static"
    subprocess.run(["gcc", "-static", "-o", program, source], check=True)
    result = echion.run([program])
    assert result.returncode == 5
    assert result.stderr.strip(), "an empty profile without a word"


# --- refused system calls ----------------------------------------------------------------------


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is for x86-64")
def test_without_process_vm_readv_it_reads_through_proc(echion, python):
    launcher = [sys.executable, str(TARGETS / "without_vm_readv.py")]
    result = echion.run([python.path, SHARES, "1.5"], "-i", "1000", wrap=launcher)
    assert_sampled(result, 0.6)
    spent, profile = result.report["spent"], result.profile
    seen = {name: profile.total_with("main", "work", name) for name in spent}
    for name, seconds in spent.items():
        share = seconds / sum(spent.values())
        assert seen[name] / sum(seen.values()) == pytest.approx(share, abs=0.05)


# --- what makes the ticks ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-i", "1000"], "bpf"),
        (["-i", "100"], "nanosleep"),
        (["-i", "100", "-c"], "bpf"),
        (["-i", "100", "--engine", "bpf"], "bpf"),
        (["-i", "1000", "--engine", "clock"], "nanosleep"),
    ],
)
def test_the_kernel_ticks_where_that_costs_the_program_least(
    echion, engine, any_python, options, expected
):
    if engine != "bpf":
        pytest.skip("the same for both")
    result = echion.run_target(any_python, "busy", "5", "20", options=["-v", *options]).check()
    assert result.profile.header["engine"] == expected
    assert ("below 500 us" in result.stderr) == (options == ["-i", "100"])


# --- outputs that fail -------------------------------------------------------------------------


@pytest.fixture
def small_disk(needs_root, tmp_path):
    """A file system with room for very little."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={FULL_DISK_BYTES}", "tmpfs", folder],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def test_a_full_disk_is_an_error_and_the_target_is_unharmed(echion, any_python, small_disk):
    result = echion.run_target(
        any_python, "known_stacks", "2", options=["-i", "100"], output=small_disk / "out.austin"
    )
    assert result.report["visits"]["section_calls"], "the target did not come to its end"
    assert result.returncode != 0
    assert "No space left" in result.stderr and "out.austin" in result.stderr
    assert len([line for line in result.stderr.splitlines() if "No space left" in line]) == 1


@pytest.mark.parametrize("where", ["missing/folder/out.austin", "."])
def test_an_output_that_cannot_be_made_is_refused_before_the_start(echion, any_python, where):
    marker = echion.folder / "ran"
    code = f"open({str(marker)!r}, 'w').close()"
    result = echion.run([any_python.path, "-c", code], output=echion.folder / where)
    assert result.returncode not in (0, None)
    assert result.stderr.strip().count("\n") == 0, "more than one line"
    assert not marker.exists(), "the command ran without an output to write to"


def test_an_output_that_vanishes_is_told(echion, any_python):
    folder = echion.folder / "vanishing"
    folder.mkdir()
    target = [any_python.path, SHARES, "1"]
    with echion.start(target, output=folder / "out.austin") as running:
        running.wait_ready()
        shutil.rmtree(folder)
        result = running.finish()
    assert result.report["spent"]["sixty"] > 0.3, "the target did not come to its end"
    assert result.returncode != 0
    assert "out.austin" in result.stderr


def test_a_device_that_refuses_is_told(echion, any_python):
    if not pathlib.Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    result = echion.run_target(any_python, "shares", "0.5", output="/dev/full")
    assert result.returncode != 0
    assert "No space left" in result.stderr


def test_the_process_id_is_put_into_the_outputs_name(echion, any_python):
    name = str(echion.folder / "of-%(pid).austin")
    code = "import os; print(os.getpid())"
    result = echion.run([any_python.path, "-c", code], output=name).check()
    assert (echion.folder / f"of-{result.stdout.strip()}.austin").is_file()
