"""Where mode shows the threads of processes in every state."""

import contextlib
import json
import os
import pathlib
import pty
import re
import signal
import subprocess
import time

import pytest

from runner import TARGETS
from whereabouts import (
    COMPUTING,
    Counts,
    Where,
    parse_report,
    start_target,
    wait_until,
    without_counts,
)

FREE_THREADED = True  # see conftest.py
FIRST_LINES = {
    line.split("(")[0][4:]: number
    for number, line in enumerate((TARGETS / "whereabouts.py").read_text().splitlines(), 1)
    if line.startswith("def ")
}
FILE = str(TARGETS / "whereabouts.py")


@pytest.fixture
def where(build_dir) -> Where:
    return Where(build_dir / "echion")


def state_of(pid: int, tid: int) -> str:
    stat = pathlib.Path(f"/proc/{pid}/task/{tid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0]


def wait_for_state(pid: int, tid: int, state: str) -> None:
    wait_until(lambda: state_of(pid, tid) == state, f"thread {tid} in state {state}")


def settle(where: Where, pid: int, function: str, thread: str = "MainThread"):
    """The threads, once `thread` sleeps in `function`."""
    return where.threads_when(
        pid,
        lambda found: found[thread].functions[-1:] == [function]
        and "sleeping" in found[thread].details,
        f"{thread} in {function}",
    )


def test_a_sleeping_program(where, python, tmp_path):
    with start_target(python, tmp_path, "sleeping") as target:
        pid = target.wait_ready()
        settle(where, pid, "sleep_here")
        done = where.run(pid)
        version = ".".join(map(str, python.version))
        assert done.returncode == 0 and done.stdout == ""
        assert re.match(rf"Process {pid} \(python.*\), Python {version}\n", done.stderr)
        (main,) = parse_report(done.stderr)
        assert main.name == "MainThread"
        assert main.native_id == pid
        assert "sleeping" in main.details
        assert main.frames[-3:] == [
            ("<module>", FILE, main.frames[-3][2]),
            ("sleeping", FILE, FIRST_LINES["sleeping"] + 1),
            ("sleep_here", FILE, FIRST_LINES["sleep_here"] + 2),
        ]


def test_json_says_the_same(where, python, tmp_path):
    with start_target(python, tmp_path, "sleeping") as target:
        pid = target.wait_ready()
        settle(where, pid, "sleep_here")
        document = where.json(pid)
        assert document["format"] == 1
        assert document["pid"] == document["own_pid"] == pid
        assert document["python"] == ".".join(map(str, python.version))
        assert document["complete"] is True
        (main,) = document["threads"]
        assert (main["name"], main["main"], main["interpreter"]) == ("MainThread", True, 0)
        assert main["native_id"] == main["own_native_id"] == pid
        assert (main["state"], main["scheduling"], main["gil"]) == ("sleeping", "waiting", None)
        assert main["consistency"] == "proved"
        assert main["truncated"] is main["broken"] is False
        assert main["frames"][-1] == {
            "function": "sleep_here",
            "file": FILE,
            "line": FIRST_LINES["sleep_here"] + 2,
        }


def test_a_busy_program_shows_stacks_that_exist(where, python, tmp_path):
    possible = [["busy"], ["busy", "busy_outer"], ["busy", "busy_outer", "busy_inner"]]
    with start_target(python, tmp_path, "busy") as target:
        pid = target.wait_ready()
        for _ in range(30):
            (main,) = where.threads(pid).values()
            assert main.functions[0] == "<module>" and not main.notes
            # Between saying so and its loop it is still in ready().
            assert main.functions[1:] in possible or "ready" in main.functions


def test_the_holder_of_the_gil_is_told(where, python, tmp_path):
    if python.is_free_threaded:
        pytest.skip("it has no GIL")
    with start_target(python, tmp_path, "busy") as target:
        pid = target.wait_ready()
        where.threads_when(
            pid, lambda found: "busy_outer" in found["MainThread"].functions, "the busy loop"
        )
        (main,) = where.json(pid)["threads"]
        assert (main["state"], main["gil"]) == ("running", "holding")
        assert main["scheduling"] in ("on_cpu", "runnable")


def waited(pid: int, tid: int, before: Counts, after: Counts) -> bool:
    """Whether a computing thread has waited for a CPU between two counts. A wait is counted at its end."""

    def count_next() -> Counts | None:
        counts = Counts.read(pid, tid)
        return counts if counts != after else None

    if after == before:
        return True  # a thread on a CPU has been counted for at each tick of the scheduler's clock
    if after.wait_ns == before.wait_ns:
        after = wait_until(count_next, "the thread runs, or has run")
    return after.wait_ns != before.wait_ns


def test_who_runs_and_who_is_runnable_is_told(where, python, tmp_path):
    """Of threads that only compute. On a busy machine nobody can say who gets a CPU: so what is said
    of a thread is held against what the kernel has counted around the look."""
    cpu = str(max(os.sched_getaffinity(0)))
    with start_target(python, tmp_path, "scheduled", cpu) as target:
        pid = target.wait_ready()
        tids = where.computing(pid)

        def count() -> dict[str, Counts]:
            return {name: Counts.read(pid, tid) for name, tid in tids.items()}

        said = set()

        def look() -> bool:
            before = count()
            threads = {thread["name"]: thread for thread in where.json(pid)["threads"]}
            after = count()
            assert threads["MainThread"]["scheduling"] == "waiting"
            for name in COMPUTING:
                scheduling = threads[name]["scheduling"]
                assert threads[name]["state"] == "running"
                assert scheduling in ("on_cpu", "runnable"), name
                if scheduling == "on_cpu":
                    assert after[name] != before[name], name
                else:
                    assert waited(pid, tids[name], before[name], after[name]), name
                said.add((name, scheduling))
            return ("last", "runnable") in said and {"on_cpu", "runnable"} == {s for _, s in said}

        wait_until(look, "threads of both kinds")
        for _ in range(5):
            look()


def test_the_text_tells_who_runs_from_who_is_runnable(where, any_python, tmp_path):
    cpu = str(max(os.sched_getaffinity(0)))
    with start_target(any_python, tmp_path, "scheduled", cpu) as target:
        pid = target.wait_ready()

        def has_both(threads) -> bool:
            states = [set(thread.details) & {"on CPU", "runnable"} for thread in threads.values()]
            is_there = "sleeping" in threads["MainThread"].details
            return is_there and {"on CPU"} in states and {"runnable"} in states

        threads = where.threads_when(pid, has_both, "a thread on a CPU, and one that is runnable")
        assert not any("running" in thread.details for thread in threads.values())


def test_an_uninterruptible_wait_is_none_for_a_cpu(where, any_python, tmp_path):
    with start_target(any_python, tmp_path, "uninterruptible", str(tmp_path / "nobody")) as target:
        pid = target.wait_ready()
        wait_for_state(pid, pid, "D")
        (main,) = where.json(pid)["threads"]
        assert (main["state"], main["scheduling"]) == ("disk sleep", "waiting")
        assert main["frames"][-1]["function"] == "spawn"


def test_without_the_scheduler_s_counts_it_says_so(where, any_python, tmp_path):
    """As under a kernel without CONFIG_SCHED_INFO."""
    with start_target(any_python, tmp_path, "busy") as target:
        pid = target.wait_ready()
        wrap = without_counts(pid, tmp_path)
        done = where.run(pid, wrap=wrap)
        assert done.returncode == 0
        (main,) = parse_report(done.stderr)
        assert "on CPU or runnable" in main.details
        assert "CONFIG_SCHED_INFO" in done.stderr.splitlines()[-1]
        done = where.run(pid, "--json", wrap=wrap)
        (main,) = json.loads(done.stdout)["threads"]
        assert (main["state"], main["scheduling"]) == ("running", None)


def test_who_waits_for_the_gil_is_told(where, python, tmp_path):
    if python.is_free_threaded:
        pytest.skip("it has no GIL")
    with start_target(python, tmp_path, "waiting_for_the_gil") as target:
        pid = target.wait_ready()
        threads = where.threads_when(
            pid,
            lambda found: "want_it" in found["MainThread"].functions
            and "waiting for the GIL" in found["MainThread"].details,
            "the main thread waits for the GIL",
        )
        assert "holding the GIL" in threads["holder"].details
        assert threads["holder"].functions[-1] == "hold_it"


def test_a_deadlock(where, python, tmp_path):
    with start_target(python, tmp_path, "deadlocked") as target:
        pid = target.wait_ready()
        threads = where.threads_when(
            pid,
            lambda found: found["one"].functions[-1] == "take_the_other"
            and found["two"].functions[-1] == "take_the_other"
            and "wait_for_the_others" in found["MainThread"].functions,
            "both threads wait for each other",
        )
        assert list(threads) == ["MainThread", "one", "two"]
        for name in ("one", "two"):
            thread = threads[name]
            assert thread.frames[-1] == ("take_the_other", FILE, FIRST_LINES["take_the_other"] + 1)
            assert not {"holding the GIL", "waiting for the GIL"} & set(thread.details)


def test_a_stopped_program(where, python, tmp_path):
    with start_target(python, tmp_path, "busy") as target:
        pid = target.wait_ready()
        where.threads_when(
            pid, lambda found: "busy_outer" in found["MainThread"].functions, "the busy loop"
        )
        os.kill(pid, signal.SIGSTOP)
        wait_for_state(pid, pid, "T")
        (main,) = where.threads(pid).values()
        assert "stopped" in main.details
        assert where.json(pid)["threads"][0]["scheduling"] == "waiting"
        assert main.functions[:2] == ["<module>", "busy"]
        assert state_of(pid, pid) == "T"


def test_ten_threads_each_with_its_own_id(where, python, tmp_path):
    with start_target(python, tmp_path, "many", "10") as target:
        pid = target.wait_ready()
        threads = where.threads_when(
            pid,
            lambda found: all(
                "wait_in_worker" in thread.functions and "sleeping" in thread.details
                for name, thread in found.items()
                if name != "MainThread"
            ),
            "all threads in wait_in_worker",
        )
        assert sorted(threads) == sorted(["MainThread", *(f"worker-{n}" for n in range(9))])
        ids = {thread.native_id for thread in threads.values()}
        assert ids == set(map(int, os.listdir(f"/proc/{pid}/task")))


def test_names_in_other_scripts_and_hostile_ones(where, python, tmp_path):
    with start_target(python, tmp_path, "names") as target:
        pid = target.wait_ready()
        threads = where.threads_when(
            pid,
            lambda found: all(t.functions[-1:] == ["größe_世界"] for t in found.values()),
            "the main thread in its function",
        )
        (main,) = threads.values()
        assert main.name == "fädchen 🧶 \\x1b[31m \\u202e"
        (main,) = where.json(pid)["threads"]
        assert main["name"] == "fädchen 🧶 \x1b[31m \u202e"


def test_a_sub_interpreter(where, python, tmp_path):
    with start_target(python, tmp_path, "sub_interpreter") as target:
        pid = target.wait_ready()
        where.threads_when(
            pid,
            lambda found: any("in_the_other" in thread.functions for thread in found.values()),
            "a thread in the other interpreter",
        )
        document = where.json(pid)
        (other,) = [t for t in document["threads"] if t["interpreter"] != 0]
        assert other["frames"][-1]["line"] == 4
        assert {t["interpreter"] for t in document["threads"]} == {0, other["interpreter"]}
        assert f"interpreter {other['interpreter']}" in where.run(pid).stderr


def test_a_thread_without_frames(where, python, tmp_path):
    library = tmp_path / "c_thread.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", library, TARGETS / "c_thread.c", "-pthread"], check=True
    )
    with start_target(python, tmp_path, "frameless", str(library)) as target:
        pid = target.wait_ready()
        threads = where.threads_when(pid, lambda found: len(found) == 2, "the thread made in C")
        main, bare = threads.values()
        assert main.name == "MainThread"
        assert bare.name == f"thread-{bare.native_id}"
        assert bare.notes == ["(no Python frames)"]


def test_a_process_whose_first_thread_has_ended(where, python, tmp_path):
    with start_target(python, tmp_path, "leader_gone") as target:
        pid = target.wait_ready()
        wait_for_state(pid, pid, "Z")
        threads = settle(where, pid, "survivor", thread="survivor")
        main = threads["MainThread"]
        assert "zombie" in main.details or "ended" in main.details or main.details == [""]


def test_a_long_stack_is_cut_at_the_limit_and_says_so(where, python, tmp_path):
    with start_target(python, tmp_path, "sleeping") as target:
        pid = target.wait_ready()
        settle(where, pid, "sleep_here")
        (main,) = where.threads(pid, "--max-frames", "2").values()
        assert main.functions == ["sleeping", "sleep_here"]
        assert main.notes == ["(more frames above these)"]


def test_nothing_in_the_process_changes(where, python, tmp_path):
    with start_target(python, tmp_path, "sleeping") as target:
        pid = target.wait_ready()
        settle(where, pid, "sleep_here")

        def look():
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            switches = re.findall(r"ctxt_switches:\s+(\d+)", status)
            return switches, pathlib.Path(f"/proc/{pid}/maps").read_text()

        before = look()
        for _ in range(5):
            where.threads(pid)
        assert look() == before


def read_terminal(program: list[str], env: dict[str, str]) -> str:
    leader, follower = pty.openpty()
    with subprocess.Popen(
        program, stdin=follower, stdout=follower, stderr=follower, env=env, start_new_session=True
    ) as process:
        os.close(follower)
        text = b""
        with contextlib.suppress(OSError):  # EIO: the other end has been closed
            while part := os.read(leader, 65536):
                text += part
        os.close(leader)
        assert process.wait() == 0
    return text.decode()


@pytest.mark.parametrize(
    "variables, coloured",
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_colours_on_a_terminal_only(where, any_python, tmp_path, variables, coloured):
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "TERM")}
    environment.update(variables)
    with start_target(any_python, tmp_path, "sleeping") as target:
        pid = target.wait_ready()
        command = [str(where.program), "-w", str(pid)]
        text = read_terminal(command, environment)
        assert "MainThread" in text
        assert ("\x1b[" in text) is coloured
        assert "\x1b[" not in where.run(pid, env=environment).stderr


def test_takes_as_long_as_it_says(where, any_python, tmp_path):
    """Far from a benchmark (tests/bench has that): no waits of its own."""
    with start_target(any_python, tmp_path, "many", "10") as target:
        pid = target.wait_ready()
        times = []
        for _ in range(7):
            begin = time.monotonic()
            where.run(pid)
            times.append(time.monotonic() - begin)
        assert min(times) < 0.5
