"""`-x N -w PID` follows a process, and sums up where its threads were."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from conftest import LONG
from runner import TIMEOUT_S
from whereabouts import COMPUTING, Counts, Where, start_target, wait_until, without_counts

SECONDS = 2.0 if LONG else 1.0
# By how much a place that uses no CPU time has less of it than one that does: on a busy machine the
# program is looked at late, when it has left the place where it was.
MUCH_LESS = 5 if LONG else 2
# What a thread that only computes may seem to wait, as a share: its last wait for a CPU, which the
# kernel has not counted yet, may be seen late; an interrupt or a hypervisor takes time from it.
MOST_WAITED = 0.25
# The scheduler's clock: a thread's run time is so old at most.
CLOCK_MONOTONIC_COARSE = 6
TICK_NS = int(time.clock_getres(CLOCK_MONOTONIC_COARSE) * 1e9)


@pytest.fixture
def where(build_dir) -> Where:
    return Where(build_dir / "echion")


def follow(where: Where, pid: int, *options: str, seconds: float = SECONDS):
    return where.json(pid, "-x", str(seconds), *options)


def time_in(thread: dict, function: str) -> int:
    return sum(
        stack["time_ns"]
        for stack in thread["stacks"]
        if any(frame["function"] == function for frame in stack["frames"])
    )


def main_thread(document: dict) -> dict:
    return next(thread for thread in document["threads"] if thread["name"] == "MainThread")


@pytest.mark.alone  # it holds one thread's time on a CPU against its time asleep
def test_shares_are_those_of_the_program(where, python, tmp_path):
    """Most of the time in long_part(), on the CPU; the rest in short_part(), asleep.

    How long each lasts on a busy machine the program cannot promise, only that neither is missing.
    """
    with start_target(python, tmp_path, "counted") as target:
        document = follow(where, target.wait_ready(), "-i", "2ms")
        main = main_thread(document)
        assert document["kind"] == "follow" and document["mode"] == "wall"
        assert document["ended_by"] == "time"
        assert SECONDS * 1e9 <= document["duration_ns"] <= 3 * SECONDS * 1e9
        # Every nanosecond is in one stack.
        assert main["seen_ns"] == document["duration_ns"]
        assert sum(stack["time_ns"] for stack in main["stacks"]) == main["seen_ns"]
        assert abs(sum(stack["share"] for stack in main["stacks"]) - 1) < 1e-4
        busy, idle = time_in(main, "long_part"), time_in(main, "short_part")
        assert busy > idle > 0.02 * main["seen_ns"]
        assert busy + idle > 0.8 * main["seen_ns"]


def test_cpu_time_leaves_out_who_sleeps(where, python, tmp_path):
    with start_target(python, tmp_path, "counted") as target:
        document = follow(where, target.wait_ready(), "-c", "-i", "2ms")
        main = main_thread(document)
        assert document["mode"] == "cpu"
        assert 0 < main["cpu_ns"] < main["seen_ns"]
        assert sum(stack["time_ns"] for stack in main["stacks"]) == main["cpu_ns"]
        assert all(stack["time_ns"] == stack["on_cpu_ns"] for stack in main["stacks"])
        assert time_in(main, "long_part") > MUCH_LESS * time_in(main, "short_part")


def test_cpu_time_is_the_kernel_s(where, any_python, tmp_path):
    with start_target(any_python, tmp_path, "busy") as target:
        pid = target.wait_ready()

        def cpu_ns() -> int:
            with open(f"/proc/{pid}/task/{pid}/schedstat") as file:
                return int(file.read().split()[0])

        before = cpu_ns()
        document = follow(where, pid, "-c")
        used = cpu_ns() - before
        # The program itself starts and ends around the time that it measures.
        assert 0.3 * used <= main_thread(document)["cpu_ns"] <= used


PARTS = ("on_cpu_ns", "runnable_ns", "waiting_ns")


def test_time_is_on_a_cpu_runnable_or_waiting(where, python, tmp_path):
    """As the kernel has counted it: nobody can say who gets a CPU on a busy machine."""
    cpu = str(max(os.sched_getaffinity(0)))
    with start_target(python, tmp_path, "scheduled", cpu) as target:
        pid = target.wait_ready()
        tids = where.computing(pid)
        before = {name: Counts.read(pid, tid) for name, tid in tids.items()}
        begin_ns = time.monotonic_ns()
        document = follow(where, pid)
        around_ns = time.monotonic_ns() - begin_ns - document["duration_ns"]
        after = {name: Counts.read(pid, tid) for name, tid in tids.items()}
        threads = {thread["name"]: thread for thread in document["threads"]}
        for name, thread in threads.items():
            assert thread["cpu_ns"] == thread["on_cpu_ns"]
            assert sum(thread[part] for part in PARTS) == thread["seen_ns"]
            assert all(thread[part] >= 0 for part in PARTS)
            for part in PARTS:
                assert sum(stack[part] for stack in thread["stacks"]) == thread[part]
            for stack in thread["stacks"]:
                assert sum(stack[part] for part in PARTS) == stack["time_ns"]
            ran_ns = after[name].run_ns - before[name].run_ns
            assert ran_ns - around_ns - 2 * TICK_NS <= thread["on_cpu_ns"] <= ran_ns
        for name in COMPUTING:
            assert threads[name]["waiting_ns"] <= MOST_WAITED * threads[name]["seen_ns"], name
        assert threads["last"]["runnable_ns"] > 0.5 * threads["last"]["seen_ns"]
        main = threads["MainThread"]
        assert main["runnable_ns"] <= after["MainThread"].wait_ns - before["MainThread"].wait_ns
        assert main["waiting_ns"] > 0.9 * main["seen_ns"]


def test_without_the_scheduler_s_counts_cpu_time_is_coarse(where, any_python, tmp_path):
    with start_target(any_python, tmp_path, "busy") as target:
        pid = target.wait_ready()
        wrap = without_counts(pid, tmp_path)
        done = where.run(pid, "--json", "-x", str(SECONDS), wrap=wrap)
        main = main_thread(json.loads(done.stdout))
        assert 0 < main["on_cpu_ns"] <= main["seen_ns"]
        assert main["runnable_ns"] is main["waiting_ns"] is None
        assert done.returncode == 0 and "CONFIG_SCHED_INFO" in done.stderr


def test_threads_that_sleep_cost_nothing_and_keep_their_stack(where, python, tmp_path):
    with start_target(python, tmp_path, "many", "10") as target:
        document = follow(where, target.wait_ready(), seconds=1)
        assert len(document["threads"]) == 10
        for thread in document["threads"]:
            assert thread["stacks"][0]["share"] > 0.5
            assert thread["ended"] is False
            function = thread["stacks"][0]["frames"][-1]["function"]
            assert function == "many" or "wait" in function


def test_a_summary_in_words(where, python, tmp_path):
    with start_target(python, tmp_path, "counted") as target:
        pid = target.wait_ready()
        done = where.run(pid, "-x", "1")
        assert done.returncode == 0 and done.stdout == ""
        assert "\x1b" not in done.stderr
        version = ".".join(map(str, python.version))
        assert re.match(
            rf"Process {pid} \(python.*\), Python {version}: \d+\.\d+ s, \d+ samples, wall time\n",
            done.stderr,
        )
        assert re.search(rf"    🧵 MainThread: thread {pid}, \d+\.\d % CPU\n", done.stderr)
        times = re.findall(r"(\d+\.\d+) s on CPU, (\d+\.\d+) s runnable, (\d+\.\d+) s waiting", done.stderr)
        seen, *stacks = [sum(map(float, parts)) for parts in times]
        assert seen > 0.99 and sum(stacks) == pytest.approx(seen, abs=0.002 * (1 + len(stacks)))
        shares = [float(one) for one in re.findall(r"^ +(\d+\.\d) %  ", done.stderr, re.M)]
        assert shares == sorted(shares, reverse=True)
        assert 90 < sum(shares) < 110
        assert "        long_part (" in done.stderr


def test_a_process_that_ends_first(where, python, tmp_path):
    with start_target(python, tmp_path, "ending", "1") as target:
        pid = target.wait_ready()
        process = subprocess.Popen(
            [str(where.program), "-x", "600", "-w", str(pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _, text = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0
        assert "ending (" in text
        assert text.endswith(f"echion: process {pid} has ended\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_ends_it_with_the_summary(where, any_python, tmp_path, number):
    with start_target(any_python, tmp_path, "sleeping") as target:
        pid = target.wait_ready()
        process = subprocess.Popen(
            [str(where.program), "--json", "-x", "600", "-w", str(pid)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: takes(process.pid, number), "echion waits for signals")
        process.send_signal(number)
        text, errors = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0 and errors == ""
        assert json.loads(text)["ended_by"] == "signal"
        assert target.process.poll() is None


def takes(pid: int, number: int) -> bool:
    """Whether the process has blocked a signal, to wait for it; in the wait itself it is not blocked.
    While it makes a thread, the C library blocks all, also those that nobody waits for."""
    with open(f"/proc/{pid}/wchan") as place:
        if "sigtimedwait" in place.read():
            return True
    with open(f"/proc/{pid}/status") as status:
        text = next(line for line in status if line.startswith("SigBlk:"))
    blocked = int(text.split()[1], 16)
    return bool(blocked >> (number - 1) & 1) and not blocked >> (signal.SIGUSR1 - 1) & 1


class Terminal:
    """A program on a terminal, and a picture of what stands on it."""

    def __init__(self, program: list[str], columns: int, rows: int):
        self.columns, self.rows = columns, rows
        self.pid, self.descriptor = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", NO_COLOR="1")
            # The size has to be right from the start.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execv(program[0], program)
        self.text = ""

    def read(self, timeout: float) -> bool:
        if not select.select([self.descriptor], [], [], timeout)[0]:
            return True
        try:
            self.text += os.read(self.descriptor, 65536).decode(errors="replace")
        except OSError:  # EIO: the program has ended
            return False
        return True

    def read_until(self, holds, what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not holds(self.text):
            assert time.monotonic() < deadline, f"{what}\n{self.text!r}"
            assert self.read(0.1), f"ended before {what}\n{self.text!r}"

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def finish(self) -> int:
        while self.read(TIMEOUT_S):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.descriptor)

    def views(self) -> list[str]:
        """The views that were drawn, each as its text."""
        return re.split(r"\r(?:\x1b\[\d+A)?\x1b\[J", self.text)[1:]


@pytest.fixture
def terminal():
    opened = []

    def open_terminal(*arguments) -> Terminal:
        opened.append(Terminal(*arguments))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.close()


def test_a_view_that_refreshes_in_place(where, python, tmp_path, terminal):
    with start_target(python, tmp_path, "many", "4") as target:
        pid = target.wait_ready()
        program = [str(where.program), "-x", "600", "-w", str(pid)]
        screen = terminal(program, 100, 30)
        screen.read_until(lambda text: text.count("Most time so far") >= 2, "two views")
        first, second = screen.views()[:2]
        for name in ("MainThread", "worker-0", "worker-1", "worker-2"):
            assert re.search(rf"🧵 {name} +\d+\.\d % CPU, sleeping", second)
        assert "wait_in_worker (" in second
        # The second begins where the first did.
        rows = first.count("\r\n")
        assert f"\r\x1b[{rows}A\x1b[J" in screen.text
        # Control-C leaves the summary, and no view.
        os.write(screen.descriptor, b"\x03")
        assert screen.finish() == 0
        last = screen.views()[-1]
        assert "Most time so far" not in last
        assert "samples, wall time" in last and "wait_in_worker (" in last


def test_a_view_follows_the_terminal_s_size(where, any_python, tmp_path, terminal):
    with start_target(any_python, tmp_path, "many", "12") as target:
        pid = target.wait_ready()
        screen = terminal([str(where.program), "-x", "600", "-w", str(pid)], 120, 40)
        screen.read_until(lambda text: "Most time so far" in text, "a view")
        screen.resize(40, 8)
        wanted = len(screen.views()) + 2
        screen.read_until(lambda _: len(screen.views()) > wanted, "views of the new size")
        small = screen.views()[wanted - 1]
        lines = small.replace("\r", "").split("\n")
        assert len(lines) <= 8
        assert all(len(line) < 40 for line in lines)
        assert "more threads" in small
        os.write(screen.descriptor, b"\x03")
        assert screen.finish() == 0


def test_what_makes_no_sense_is_refused(where):
    for options, words in [
        (["-c"], "-c without -x"),
        (["-o", "x"], "-o"),
        (["-x", "0"], "-x 0"),
    ]:
        done = where.run(os.getpid(), *options)
        assert done.returncode == 2 and words in done.stderr
