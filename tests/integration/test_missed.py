"""What a program does while its sampler does not get to look is in the profile, as missed time: at the
start, in the middle and at the end, and of threads that nobody ever saw."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import Iterator, Sequence

import pytest

from held_thread import HeldThread, find_thread
from interpreters import Interpreter
from runner import TARGETS, Echion, Result, Running

# Of the ends of what is measured, on both sides of a look.
TICKS_US = 3_000
HELD_S = 0.3
# For what is used or lived around it, and until somebody has noticed that a process has ended.
AROUND_US = 400_000

# Waits in front of main(), where the agent's threads exist and Python has not started.
HOLD_MAIN = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
typedef int (*Main)(int, char **, char **);
typedef int (*Start)(Main, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
int __libc_start_main(Main main, int argc, char **argv, void (*init)(void), void (*fini)(void),
                      void (*rtld_fini)(void), void *stack_end) {
    if (getenv("ECHION_CHANNEL") != NULL) {
        char word[32];
        const int size = snprintf(word, sizeof(word), "held %d\n", (int)getpid());
        const int fifo = open(getenv("ECHION_TEST_FIFO"), O_WRONLY);
        char line = 0;
        if (write(fifo, word, size) != size) abort();
        close(fifo);
        while (read(0, &line, 1) == 1 && line != '\n') continue;
    }
    return ((Start)dlsym(RTLD_NEXT, "__libc_start_main"))(main, argc, argv, init, fini, rtld_fini,
                                                          stack_end);
}
"""


@pytest.fixture(autouse=True)
def needs_ptrace(needs_root: None) -> None:
    """Of a thread that is no child."""


def options(engine: str, cpu: bool = False) -> list[str]:
    return ["-i", "1000", "--engine", engine, *(["-c"] if cpu else [])]


@contextlib.contextmanager
def start(
    echion: Echion, python: Interpreter, what: str, words: Sequence[str], **keywords
) -> Iterator[Running]:
    command = [python.path, str(TARGETS / "unseen.py"), what]
    with echion.start(command, *words, stdin=subprocess.PIPE, **keywords) as running:
        yield running


def go_on(running: Running) -> None:
    running.process.stdin.write("\n")
    running.process.stdin.flush()


def hold_sampler(running: Running) -> HeldThread:
    pid = running.wait_ready()
    running.wait_for("seen")
    return HeldThread(find_thread(pid, "echion"))


def run_held(echion: Echion, python: Interpreter, what: str, words: Sequence[str]) -> Result:
    """The sampler stands still while the target works; at the end of it, it goes on."""
    with start(echion, python, what, words) as running:
        held = hold_sampler(running)
        go_on(running)
        running.wait_for("over")
        if words[-2:] == ["bpf", "-c"]:
            held.let_go()  # while the target waits, nothing wakes it; its end is known
        else:
            held.let_look()
        go_on(running)
        return running.finish().check()


def run_held_to_the_end(echion: Echion, python: Interpreter, words: Sequence[str]):
    """The sampler does not look any more; also, for how long."""
    with start(echion, python, "end", words) as running:
        held = hold_sampler(running)
        held_s = time.monotonic()
        go_on(running)
        held.wait_for_end()
        held_us = (time.monotonic() - held_s) * 1e6
        return running.finish().check(), held_us


def missed_of(result: Result, thread: str) -> int:
    return result.profile.total(lambda sample: sample.thread == thread and sample.is_missed)


def test_in_the_middle_of_a_run(echion, python, engine):
    result = run_held(echion, python, "middle", options(engine))
    assert result.profile.total_with("main", "unseen") == 0
    missed_us = missed_of(result, "MainThread")
    assert missed_us >= result.report["lives"]["unseen"]["wall_s"] * 1e6 - TICKS_US
    assert result.profile.figure("missed_us") == missed_us


def test_in_the_middle_of_a_run_by_cpu_time(echion, python, cpu_engine):
    result = run_held(echion, python, "middle", options(cpu_engine, cpu=True))
    # The tick of CPU time that came in between is in the kernel's ring.
    assert result.profile.total_with("main", "unseen") <= 0.1 * 1e6
    seen_us = missed_of(result, "MainThread") + result.profile.total_with("main", "unseen")
    assert seen_us >= result.report["lives"]["unseen"]["cpu_s"] * 1e6 - TICKS_US


def test_a_wait_that_goes_on_is_known_as_soon_as_the_sampler_looks(echion, python, engine):
    if engine != "bpf":
        pytest.skip("only the kernel's programs tell since when a thread has not run")
    with start(echion, python, "waits", options("bpf")) as running:
        held = hold_sampler(running)
        go_on(running)
        running.wait_for("over")
        began_s = time.monotonic()
        time.sleep(HELD_S)  # how long nobody looks
        held.let_look()
        held_us = (time.monotonic() - began_s) * 1e6
        go_on(running)
        result = running.finish().check()
    assert held_us - TICKS_US <= result.profile.total_with("waits")
    assert missed_of(result, "MainThread") == 0


def test_at_the_end(echion, python, engine):
    result, held_us = run_held_to_the_end(echion, python, options(engine))
    assert result.profile.total_with("main", "unseen") == 0
    missed_us = missed_of(result, "MainThread")
    assert missed_us >= result.report["lives"]["unseen"]["wall_s"] * 1e6 - TICKS_US
    assert missed_us <= held_us + AROUND_US
    assert result.profile.figure("missed_us") == missed_us
    assert result.profile.figure("lost_ns") == 0


def test_at_the_end_by_cpu_time(echion, python, engine):
    if engine != "bpf":
        pytest.skip("what a process used before its end, only the kernel's programs tell")
    result, _ = run_held_to_the_end(echion, python, options("bpf", cpu=True))
    missed_us = missed_of(result, "MainThread")
    used_us = result.report["lives"]["unseen"]["cpu_s"] * 1e6
    assert used_us - TICKS_US <= missed_us <= used_us + AROUND_US


@pytest.mark.parametrize("cpu", [False, True], ids=["wall", "cpu"])
def test_at_the_start(echion, python, engine, cpu, tmp_path):
    library = tmp_path / "hold-main.so"
    source = tmp_path / "hold-main.c"
    source.write_text(HOLD_MAIN)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    words, env = options(engine, cpu), {"LD_PRELOAD": str(library)}
    with start(echion, python, "start", words, env=env) as running:
        held = HeldThread(find_thread(int(running.wait_for("held")[0]), "echion"))
        go_on(running)
        running.wait_for("over")
        held.let_go()
        go_on(running)
        result = running.finish().check()
    assert result.profile.total_with("main", "unseen") == 0
    lived_us = result.report["lives"]["unseen"]["cpu_s" if cpu else "wall_s"] * 1e6
    assert missed_of(result, "MainThread") >= lived_us - TICKS_US


def test_a_thread_that_nobody_ever_saw(echion, python, engine):
    if engine != "bpf":
        pytest.skip("only the kernel's programs tell of such threads one by one")
    result = run_held(echion, python, "thread", options("bpf", cpu=True))
    others = {name: us for name, us in result.profile.thread_totals().items()
              if name.startswith("thread-")}
    used_us = result.report["lives"]["unseen"]["cpu_s"] * 1e6
    assert len(others) == 1, others
    (name, seen_us), = others.items()
    assert used_us <= seen_us <= used_us + AROUND_US
    assert missed_of(result, name) == seen_us


def test_a_thread_that_began_meanwhile_has_missed_no_more_than_its_life(echion, python, engine):
    if engine != "bpf":
        pytest.skip("only the kernel's programs tell when a thread began")
    result = run_held(echion, python, "late", options("bpf"))
    lived_us = result.report["lives"]["late"]["wall_s"] * 1e6
    seen_us = result.profile.thread_totals()["late"]
    assert seen_us <= lived_us + AROUND_US / 4
    assert missed_of(result, "MainThread") > seen_us
