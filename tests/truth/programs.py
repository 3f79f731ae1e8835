"""The programs that are profiled (tests/targets), and what each says of itself."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import subprocess
from typing import Any, Callable, Sequence

from interpreters import Interpreter
from possible import Grammar
from runner import TARGETS, TIMEOUT_S
from task_stacks import find_fault
from truth import Life, Piece, Span, Truth, Wait, make_lives

WALL, CPU = "wall", "cpu"
LAUNCHED, ATTACHED = "launched", "attached"
SLEEP_S = 0.3
Report = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
    """One row's worth. `arguments` are made of the seconds that a program is to run; `tell` makes the
    truth of the report and of what is measured, WALL or CPU."""

    name: str
    target: str | None
    arguments: Callable[[float, str], list[str]]
    tell: Callable[[Report, str], Truth]
    interval_us: int = 1000
    is_short: bool = False  # repeated, as what goes wrong does so at its start or end
    measures: Sequence[str] = (WALL, CPU)
    ways: Sequence[str] = (LAUNCHED, ATTACHED)
    reports: bool = True
    has_marks: bool = True  # its lines say what they run (_marks.py)
    is_for_others: bool = True  # whether a profiler that does not say its name can be told the truth

    def words(self, seconds: float, way: str) -> list[str]:
        """The interpreter's arguments."""
        script = [str(TARGETS / f"{self.target}.py")] if self.target else []
        return script + self.arguments(seconds, way)

    def truth(
        self, python: Interpreter, report: Report, measure: str, way: str, is_wrapped: bool = False
    ) -> Truth:
        truth = self.tell(report, measure)
        truth.was_ready = way == ATTACHED
        if self.target and self.has_marks:
            truth.grammar = Grammar(describe(python, self.target), is_wrapped)
        return truth


@functools.lru_cache(maxsize=None)
def describe(python: Interpreter, target: str) -> dict[str, Any]:
    """The target's marks, and its lines as this interpreter compiles them."""
    command = [python.path, str(TARGETS / "_marks.py"), str(TARGETS / f"{target}.py")]
    told = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    return json.loads(told.stdout)


def _clock(measure: str) -> str:
    return f"{measure}_s"


def _spans(seconds: dict[str, float]) -> list[Span]:
    return [Span(name, its, (name,)) for name, its in seconds.items()]


def tell_calls(report: Report, measure: str) -> Truth:
    wall = {name: sum(times) for name, times in report["visits"].items()}
    life = report["lives"]["MainThread"]
    return Truth(
        spans=_spans(wall if measure == WALL else report["cpu"]),
        lives=[Life("MainThread", life[_clock(measure)], life[_clock(measure)], "rounds_alone")],
        cpu_s=report["process_cpu_s"],
    )


def tell_threads(report: Report, measure: str) -> Truth:
    lives = [
        Life(life.thread, life.least_s, life.most_s, "worker")
        for life in make_lives(report["lives"], _clock(measure))
    ]
    return Truth(lives=lives, cpu_s=report["process_cpu_s"])


def tell_shares(report: Report, measure: str) -> Truth:
    lifetimes = report["lifetimes"]
    if measure == CPU:
        whole = lifetimes["work_cpu"]
        return Truth(spans=_spans(report["cpu"]), lives=[Life("MainThread", whole, whole, "work")])
    work, sleep = lifetimes["work"], lifetimes["sleeper"]
    return Truth(
        spans=_spans(report["spent"]),
        lives=[
            Life("MainThread", work, work, "work"),
            Life("sleeper", sleep, sleep, "sleeper"),
        ],
        waits=[Wait("sleeper", frozenset({("shares.py", "sleeper")}), sleep)],
        owners={"sleeper": "sleeper", "work": "MainThread"},
        cpu_s=report["process_cpu_s"],
    )


def _tell_sleep(file: str, function: str) -> Truth:
    """What nothing has to measure: time.sleep does not end before its time."""
    return Truth(
        spans=[Span(function, SLEEP_S, (function,))],
        lives=[Life("MainThread", SLEEP_S, float("inf"), function)],
        waits=[Wait("MainThread", frozenset({(file, function)}), SLEEP_S)],
    )


def tell_generated(report: Report, measure: str) -> Truth:
    pieces = _pieces(report, measure)
    files = frozenset((piece.file, "<module>") for piece in pieces if piece.is_leaf)
    waits = []
    if measure == WALL:
        wait_s, busy_s = report["wait_s"], report["busy_s"]
        beside_s = max(one.seconds - (wait_s if one.is_leaf else busy_s) for one in pieces)
        waits = [Wait("MainThread", files, wait_s, "run_piece", beside_s)]
    return Truth(pieces=pieces, waits=waits, lives=[_life_of_pieces(pieces)])


def tell_templates(report: Report, measure: str) -> Truth:
    pieces = _pieces(report, measure)
    return Truth(pieces=pieces, lives=[_life_of_pieces(pieces)])


def _pieces(report: Report, measure: str) -> list[Piece]:
    return [
        Piece(file, wall_s if measure == WALL else cpu_s, file.startswith("wait_"))
        for file, wall_s, cpu_s in report["pieces"]
    ]


def _life_of_pieces(pieces: list[Piece]) -> Life:
    whole = sum(piece.seconds for piece in pieces)
    return Life("MainThread", whole, float("inf"), "main")


def tell_lives(report: Report, measure: str) -> Truth:
    owners = {life["function"]: thread.split()[0] for thread, life in report["lives"].items()}
    return Truth(
        lives=make_lives(report["lives"], _clock(measure)),
        owners=owners,
        cpu_s=report["process_cpu_s"],
    )


def tell_forked(report: Report, measure: str) -> Truth:
    return Truth(
        spans=_spans(report["spent"] if measure == WALL else report["cpu"]),
        lives=make_lives(report["lives"], _clock(measure)),
        cpu_s=report["process_cpu_s"],
    )


def tell_collecting(report: Report, measure: str) -> Truth:
    seconds = report["spent"] if measure == WALL else report["cpu"]
    life = report["lives"]["MainThread"][_clock(measure)]
    return Truth(
        spans=[
            Span("work", seconds["work"], ("work",)),
            Span("collecting", seconds["collecting"], ("collect",), collecting=True),
        ],
        lives=[
            # The rest of `main` makes the garbage.
            Life("MainThread", life, float("inf"), "main"),
        ],
    )


def tell_interpreted(report: Report, measure: str) -> Truth:
    inside = report["inside"]
    clock = _clock(measure)
    return Truth(
        spans=[
            Span(name, facts[clock], (name,), facts["number"]) for name, facts in inside.items()
        ],
        places={name: facts["number"] for name, facts in inside.items()},
    )


def tell_tasks(_report: Report, _measure: str) -> Truth:
    return Truth(fault=find_fault)


def _seconds_alone(seconds: float, _way: str) -> list[str]:
    return [str(seconds)]


def _forked(how: str) -> Callable[[float, str], list[str]]:
    def make(seconds: float, way: str) -> list[str]:
        # A child is reached by attaching; a launch goes on with the parent.
        return [how, "child" if way == ATTACHED else "parent", str(seconds)]

    return make


ALL: tuple[Program, ...] = (
    Program("calls", "known_stacks", _seconds_alone, tell_calls, interval_us=100),
    Program(
        "threads", "known_stacks", lambda seconds, _: [str(seconds), "3"], tell_threads, interval_us=100
    ),
    Program("shares", "shares", _seconds_alone, tell_shares),
    Program(
        "sleeping",
        "sleeping",
        lambda _, __: [str(SLEEP_S)],
        lambda _, __: _tell_sleep("sleeping.py", "serve_forever"),
        is_short=True,
        measures=(WALL,),
        ways=(LAUNCHED,),
        reports=False,
    ),
    Program(
        "one-liner",
        None,
        lambda _, __: ["-c", f"import time; time.sleep({SLEEP_S})"],
        lambda _, __: _tell_sleep("<string>", "<module>"),
        is_short=True,
        measures=(WALL,),
        ways=(LAUNCHED,),
        reports=False,
    ),
    Program("generated", "generated", lambda _, __: ["6", "0.1"], tell_generated, is_short=True),
    Program("templates", "templates", _seconds_alone, tell_templates),
    Program(
        "tasks", "task_churn", _seconds_alone, tell_tasks, interval_us=100, has_marks=False,
        is_for_others=False,
    ),
    Program("pair", "pair", lambda _, __: ["0.2"], tell_lives, is_short=True),
    Program("lives", "lives", _seconds_alone, tell_lives),
    Program("fork", "forked", _forked("python"), tell_forked),
    Program("native-fork", "forked", _forked("native"), tell_forked),
    Program("collecting", "collecting", _seconds_alone, tell_collecting),
    # Other profilers do not say which interpreter a stack is of.
    Program("interpreted", "interpreted", _seconds_alone, tell_interpreted, is_for_others=False),
)


def load_report(program: Program, path: pathlib.Path) -> Report:
    return json.loads(path.read_text()) if program.reports else {}
