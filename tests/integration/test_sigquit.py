"""SIGQUIT makes a sampled program show all its stacks, and ends nobody."""

import contextlib
import os
import pty
import select
import signal
import subprocess
import time

import pytest

from attach_support import catches, ignores, start_target
from runner import TARGETS
from whereabouts import parse_report, wait_until

FREE_THREADED = True  # see conftest.py
SCENES = str(TARGETS / "whereabouts.py")
TIMEOUT_S = 30.0
# The sampler's own clock, below and above the interval from which on it polls for requests; and
# the kernel's ticks, where they may be had.
ENGINES = [("-i", "1ms", "--engine", "clock"), ("-i", "10s", "--engine", "clock"), ("-c",)]


class Output:
    """What comes out of a running program's standard error, as it comes."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self.text = ""

    def wait_for(self, holds, what: str, timeout: float = TIMEOUT_S) -> str:
        deadline = time.monotonic() + timeout
        while not holds(self.text):
            left = deadline - time.monotonic()
            assert left > 0, f"not within {timeout} s: {what}\n{self.text}"
            if select.select([self._descriptor], [], [], left)[0]:
                part = os.read(self._descriptor, 65536)
                assert part, f"ended before: {what}\n{self.text}"
                self.text += part.decode(errors="replace")
        return self.text


def is_whole(text: str, times: int = 1) -> bool:
    """Reports end with an empty line behind the last thread."""
    return text.count("Process ") == times and text.endswith("\n\n")


@contextlib.contextmanager
def sampled(echion, python, scene: str, *arguments: str, options=(), **keywords):
    """A sampled target that is ready, with the agent in place, and its standard error."""
    command = [python.path, SCENES, scene, *arguments]
    with echion.start(command, *options, **keywords) as running:
        pid = running.wait_ready()
        wait_until(lambda: catches(pid, signal.SIGQUIT), "the agent has taken the signal")
        yield running, pid, Output(running.process.stderr.fileno())


def sleeps(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "S"


def ask(pid: int, output: Output, times: int = 1):
    os.kill(pid, signal.SIGQUIT)
    text = output.wait_for(lambda text: is_whole(text, times), "a whole report")
    return {thread.name: thread for thread in parse_report(text)}


def ask_until(pid: int, output: Output, holds) -> dict:
    """Asks until the answer is as wanted: a target says that it is ready before it is there."""
    times = output.text.count("Process ")

    def look():
        nonlocal times
        times += 1
        threads = ask(pid, output, times)
        return threads if holds(threads) else None

    return wait_until(look, "the threads where they should be")


@pytest.mark.parametrize("options", ENGINES, ids=lambda options: " ".join(options))
def test_a_program_shows_its_stacks_and_goes_on(echion, python, options):
    with sampled(echion, python, "many", "10", options=options) as (running, pid, output):
        threads = ask_until(
            pid,
            output,
            lambda found: all(
                "wait_in_worker" in t.functions for n, t in found.items() if n != "MainThread"
            )
            and found["MainThread"].functions == ["<module>", "many"],
        )
        assert sorted(threads) == sorted(["MainThread", *(f"worker-{n}" for n in range(9))])
        assert {t.native_id for t in threads.values()} <= set(
            map(int, os.listdir(f"/proc/{pid}/task"))
        )
        assert f"Process {pid} (" in output.text
        assert running.process.poll() is None


def test_who_runs_is_told_from_who_is_runnable(echion, any_python):
    cpu = str(max(os.sched_getaffinity(0)))
    with sampled(echion, any_python, "scheduled", cpu) as (_, pid, output):

        def has_both(threads) -> bool:
            states = [set(thread.details) & {"on CPU", "runnable"} for thread in threads.values()]
            is_there = "sleeping" in threads["MainThread"].details
            return is_there and {"on CPU"} in states and {"runnable"} in states

        ask_until(pid, output, has_both)
        assert "on CPU or runnable" not in output.text


def test_a_deadlock(echion, python):
    with sampled(echion, python, "deadlocked") as (_, pid, output):
        threads = ask_until(
            pid,
            output,
            lambda found: found["one"].functions[-1] == "take_the_other"
            and found["two"].functions[-1] == "take_the_other"
            and "wait_for_the_others" in found["MainThread"].functions,
        )
        assert list(threads) == ["MainThread", "one", "two"]


@pytest.mark.parametrize("options", ENGINES, ids=lambda options: " ".join(options))
def test_a_c_call_that_never_lets_the_gil_go(echion, python, options):
    if python.is_free_threaded:
        pytest.skip("it has no GIL")
    with sampled(echion, python, "holding_the_gil_for_ever", options=options) as (_, pid, output):
        threads = ask_until(
            pid,
            output,
            lambda found: found["MainThread"].functions[-1] == "hold_it_for_ever"
            and "sleeping" in found["MainThread"].details,
        )
        assert "holding the GIL" in threads["MainThread"].details


@pytest.mark.parametrize("has_sigint", ["with_sigint", "without_sigint"])
def test_the_program_s_own_handler_is_called_as_well(echion, python, has_sigint):
    with sampled(echion, python, "own_handler", has_sigint) as (running, pid, output):
        # Python's handler took the signal's place when it was set: the agent comes back.
        calls = 0
        deadline = time.monotonic() + TIMEOUT_S
        while output.text.count("Process ") == 0:
            assert time.monotonic() < deadline, "the agent does not come back"
            os.kill(pid, signal.SIGQUIT)
            calls += 1
            assert int(running.wait_for("handled", TIMEOUT_S)[0]) == calls
            with contextlib.suppress(AssertionError):
                output.wait_for(lambda text: is_whole(text), "a report", timeout=0.2)
        assert "MainThread" in output.text


def test_a_handler_that_calls_the_one_before_it_stays_in_front(echion, python, tmp_path):
    other = tmp_path / "faulthandler"
    with sampled(echion, python, "handler_from_c", str(other)) as (_, pid, output):
        for times in (1, 2, 3):
            ask(pid, output, times)
            wait_until(
                lambda: other.read_text().count("most recent call first") >= times,
                "faulthandler's dump",
                TIMEOUT_S,
            )
            # It has put itself in front again once the program sleeps on.
            wait_until(lambda: sleeps(pid), "the end of the handlers", TIMEOUT_S)
        assert other.read_text().count("Current thread") == 3


def test_children_are_ended_by_the_signal_as_ever(echion, python):
    with sampled(echion, python, "disposition") as (running, pid, output):
        os.kill(pid, signal.SIGUSR1)
        assert running.wait_for("fork", TIMEOUT_S) == [str(int(signal.SIGQUIT))]
        assert running.wait_for("spawn", TIMEOUT_S) == [str(int(signal.SIGQUIT))]
        # And the parent still answers, once, for itself.
        ask(pid, output)
        assert output.text.count("Process ") == 1


@pytest.mark.parametrize("when", ["inherited", "later"])
def test_an_ignored_signal_stays_ignored(echion, python, when):
    """In the program and, as an execve() would make a handler the default action, in what it
    starts. So there is no report of stacks then; -v tells it of one that was ignored from the start."""
    wrap = ["env", "--ignore-signal=QUIT"] if when == "inherited" else []
    command = [python.path, TARGETS / "sigquit_dispositions.py", when]
    result = echion.run(command, "-v", wrap=wrap).check()
    kinds = ("own", "subprocess", "spawn", "fork", "system")
    assert result.report == dict.fromkeys(kinds, True), result.stderr
    assert "Process " not in result.stderr
    assert ("ignores SIGQUIT" in result.stderr) == (when == "inherited")


def test_a_later_attachment_answers_where_the_signal_was_ignored(echion, any_python, tmp_path):
    """An agent that never had the signal leaves nothing behind that would keep it off later."""
    with start_target(tmp_path, [any_python.path, "-c", QUIETS]) as target:
        for is_ignored in (True, False):
            with echion.start(["-p", str(target.pid)]) as running:
                target.wait_until_sampled()
                if is_ignored:
                    assert not catches(target.pid, signal.SIGQUIT)
                else:
                    wait_until(lambda: catches(target.pid, signal.SIGQUIT), "it is taken")
                os.kill(running.process.pid, signal.SIGINT)
                running.finish().check()
            if is_ignored:
                os.kill(target.pid, signal.SIGUSR1)
                wait_until(lambda: not ignores(target.pid, signal.SIGQUIT), "it ignores no more")
        target.finish()


QUIETS = """
import os, signal, sys
signal.signal(signal.SIGQUIT, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, lambda *_: signal.signal(signal.SIGQUIT, signal.SIG_DFL))
with open(os.environ["ECHION_TEST_FIFO"], "w") as words: print("ready", os.getpid(), file=words)
sys.stdin.read()
with open(os.environ["ECHION_TEST_REPORT"], "w") as report: report.write("{}")
"""


def test_control_backslash_shows_and_kills_nobody(echion, any_python, build_dir, tmp_path):
    fifo = tmp_path / "words"
    os.mkfifo(fifo)
    words = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    environment = dict(os.environ, ECHION_TEST_FIFO=str(fifo), TERM="xterm")
    environment.pop("NO_COLOR", None)
    pid, terminal = pty.fork()
    if pid == 0:
        program = str(build_dir / "echion")
        os.execve(
            program,
            [program, "-o", str(tmp_path / "out"), any_python.path, SCENES, "sleeping"],
            environment,
        )
    try:
        wait_until(lambda: select.select([words], [], [], 0.1)[0] and ready_pid(words), "ready")
        target = int(subprocess.check_output(["pgrep", "-P", str(pid)], text=True).split()[0])
        wait_until(lambda: catches(target, signal.SIGQUIT), "the agent has taken the signal")
        output = Output(terminal)
        os.write(terminal, b"\x1c")
        text = output.wait_for(lambda text: "sleep_here" in text, "a report")
        assert "\x1b[" in text  # coloured, as this is a terminal
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.write(terminal, b"\x03")  # Control-C ends it
        output_end(terminal)
        assert os.WIFEXITED(os.waitpid(pid, 0)[1])
    finally:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        os.close(words)
        os.close(terminal)


def ready_pid(words: int) -> bool:
    return os.read(words, 4096).startswith(b"ready")


def output_end(terminal: int) -> None:
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while os.read(terminal, 65536):
            pass


def test_standard_error_that_takes_nothing_holds_nobody_up(echion, any_python, tmp_path):
    """A full pipe: the report is given up, sampling goes on and the program ends in time."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    env = {"ECHION_TEST_STDERR": str(writing)}
    with sampled(
        echion, any_python, "ending", "3", env=env, pass_fds=[writing]
    ) as (running, pid, _):
        os.kill(pid, signal.SIGQUIT)
        result = running.finish()
        assert result.returncode == 0
        assert result.profile.samples
    os.close(reading)
    os.close(writing)
