#!/usr/bin/env python3
"""Profiles programs that know their own stacks and times, and checks every sample of the profiles.

    scripts/truth                               everything: hours
    scripts/truth --quick                       a part of it: about two minutes
    scripts/truth --python 3.8,3.13 --program generated --runs 50
    scripts/truth --others                      beside the other profilers that are installed

One table goes to standard output, progress to standard error; Ctrl-C prints what there is so far.
Exit status: 0, or 1 when a bound is missed, 2 for a command line that makes no sense, 130 after Ctrl-C.
docs/truth.md explains every column.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "integration"))

import collapsed  # noqa: E402
import others  # noqa: E402
import programs  # noqa: E402
import table  # noqa: E402
from attach_support import start_target  # noqa: E402
from checks import Bounds, Judgement, judge  # noqa: E402
from interpreters import Interpreter, find_free_threaded, find_interpreters  # noqa: E402
from profile_text import Profile  # noqa: E402
from programs import ATTACHED, CPU, LAUNCHED, WALL, Program  # noqa: E402
from runner import PROFILE_NAMES, TIMEOUT_S, Echion, why_not  # noqa: E402
from table import Row  # noqa: E402

LOADS = ("quiet", "hogs")
# As they are named on the command line and in the table → what makes the ticks, and what is measured.
ENGINES = {
    "bpf": ("bpf", WALL),
    "clock": ("clock", WALL),
    "bpf -c": ("bpf", CPU),
    "perf -c": ("perf", CPU),
    "clock -c": ("clock", CPU),
}
SECONDS, RUNS = 3.0, 5
QUICK_SECONDS, QUICK_RUNS = 1.0, 2
QUICK_PROGRAMS = ("calls", "one-liner", "generated", "pair", "lives")


@dataclasses.dataclass(frozen=True)
class Case:
    """What one row is measured with."""

    program: Program
    python: Interpreter
    way: str
    engine: str  # of ENGINES, or another profiler's name
    load: str
    profiler: others.Profiler | None = None

    @property
    def measure(self) -> str:
        return WALL if self.profiler else ENGINES[self.engine][1]

    def __str__(self) -> str:
        return f"{self.program.name} {self.python.name} {self.way} {self.engine} {self.load}"


class Truths:
    """Runs cases with the build under test, in a folder of its own."""

    def __init__(self, build_dir: pathlib.Path, seconds: float, runs: int, hogs: int, keep: bool):
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="echion-truth-"))
        self._echion = Echion(build_dir / "echion", self._folder)
        self._seconds, self._runs, self._hogs, self._keep = seconds, runs, hogs, keep

    def close(self) -> None:
        if self._keep:
            print(f"the profiles are in {self._folder}", file=sys.stderr)
        else:
            shutil.rmtree(self._folder, ignore_errors=True)

    def measure(self, case: Case, bounds: Bounds) -> Row:
        row = Row(
            case.program.name, case.python.name, case.way, case.engine, case.load, Judgement(),
            is_judged=case.profiler is None,
        )
        with hogs(self._hogs if case.load == "hogs" else 0):
            for _ in range(self._runs if case.program.is_short else 1):
                found = self._judge_one(case)
                found.wrong_runs = int(bool(bounds.missed(found, row.is_quiet)))
                row.found.add(found)
        return row

    def _judge_one(self, case: Case) -> Judgement:
        try:
            profile, report, interval_us = self._profile(case)
            is_wrapped = case.profiler is not None and case.profiler.python is not None
            truth = case.program.truth(case.python, report, case.measure, case.way, is_wrapped)
            return judge(profile, truth, interval_us, case.measure == CPU)
        # What the helpers of the tests assert, and what a program or a profiler left unwritten.
        except (AssertionError, OSError, ValueError, LookupError, subprocess.SubprocessError,
                collapsed.NotReadable) as error:  # fmt: skip
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return Judgement(runs=1, errors=[" / ".join(lines)[:300]])

    def _profile(self, case: Case) -> tuple[Profile, programs.Report, int]:
        if case.profiler:
            return self._other(case, case.profiler)
        engine, measure = ENGINES[case.engine]
        interval_us = case.program.interval_us
        options = ["-i", str(interval_us), "--engine", engine]
        options += ["-c"] if measure == CPU else []
        run = self._attached if case.way == ATTACHED else self._launched
        profile, report = run(case, options)
        if f"engine: {engine}" != f"engine: {_engine_of(profile)}":
            raise AssertionError(f"the engine was {profile.header.get('engine')}, not {engine}")
        return profile, report, interval_us

    def _launched(self, case: Case, options: list[str]) -> tuple[Profile, programs.Report]:
        words = case.program.words(self._seconds, case.way)
        result = self._echion.run([case.python.path, *words], *options).check()
        return result.profile, programs.load_report(case.program, result.report_path)

    def _attached(self, case: Case, options: list[str]) -> tuple[Profile, programs.Report]:
        command = [case.python.path, *case.program.words(self._seconds, case.way)]
        awaits = {"ECHION_TEST_AWAIT_SAMPLER": "1"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with start_target(self._folder, command, env=awaits, **quiet) as target:
            with self._echion.start([], "-p", str(target.pid), *options) as running:
                deadline = time.monotonic() + TIMEOUT_S
                while target.is_alive():
                    if running.process.poll():  # it failed, and the target waits for it
                        running.finish().check()
                    if time.monotonic() > deadline:
                        raise AssertionError(f"the target does not end within {TIMEOUT_S} s")
                    time.sleep(0.02)
                return running.finish().check().profile, target.finish()

    def _other(
        self, case: Case, profiler: others.Profiler
    ) -> tuple[Profile, programs.Report, int]:
        script, *arguments = case.program.words(self._seconds, case.way)
        result = others.run(profiler, case.python.path, script, arguments, self._folder)
        if result.error:
            raise AssertionError(result.error)
        profile = collapsed.read(result.output, others.INTERVAL_US)
        report = programs.load_report(case.program, result.report_path)
        return profile, report, others.INTERVAL_US


def _engine_of(profile: Profile) -> str:
    engine = profile.header.get("engine", "").split(" ")[0]
    names = {in_profile: name for name, in_profile in PROFILE_NAMES.items()}
    return names.get(engine, engine)


@contextlib.contextmanager
def hogs(count: int) -> Iterator[None]:
    """So many processes that take all the CPU they get."""
    command = [sys.executable, "-I", "-c", "while True: pass"]
    running = [subprocess.Popen(command, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for hog in running:
            hog.kill()
        for hog in running:
            hog.wait()


# --- the command line --------------------------------------------------------------------------


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    many = {"action": "append", "default": []}
    parser.add_argument("--python", **many, metavar="LIST",
                        help="versions such as 3.8,3.13, or paths; default: every one found")
    parser.add_argument("--program", **many, metavar="LIST",
                        help=f"of {', '.join(one.name for one in programs.ALL)}")
    parser.add_argument("--ways", **many, metavar="LIST", help=f"of {LAUNCHED}, {ATTACHED}")
    parser.add_argument("--engines", **many, metavar="LIST",
                        help="of bpf, clock, bpf-c, perf-c, clock-c, none; default: all allowed here")
    parser.add_argument("--load", **many, metavar="LIST", help=f"of {', '.join(LOADS)}")
    parser.add_argument("--hogs", type=int, default=2, help="processes beside it (2)")
    parser.add_argument("--runs", type=int, metavar="N",
                        help=f"of each short program ({RUNS})")
    parser.add_argument("--seconds", type=float, help=f"of each longer program ({SECONDS:g})")
    parser.add_argument("--quick", action="store_true", help="a part of it: about two minutes")
    parser.add_argument("--others", action="store_true",
                        help="also py-spy, Austin and profiling.sampling, where they are installed")
    parser.add_argument("--other", **many, metavar="NAME=COMMAND",
                        help="also another profiler, as '{python} {script} {args} -o {output}'")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="all figures, for programs")
    parser.add_argument("--keep", action="store_true", help="leave the profiles")
    options = parser.parse_args(arguments)
    try:
        choose(options)
    except ValueError as error:
        parser.error(str(error))
    return options


def words(given: list[str]) -> list[str]:
    return [word for text in given for word in text.split(",") if word]


def _chosen(given: list[str], known: tuple[str, ...], what: str, default: tuple[str, ...]) -> list[str]:
    wanted = words(given)
    if unknown := set(wanted) - set(known):
        raise ValueError(f"no such {what}: {', '.join(sorted(unknown))}")
    return [one for one in known if one in (wanted or default)]


def choose(options: argparse.Namespace) -> None:
    """Replaces the options' words by what they stand for. Raises ValueError."""
    quick = options.quick
    options.runs = options.runs or (QUICK_RUNS if quick else RUNS)
    options.seconds = options.seconds or (QUICK_SECONDS if quick else SECONDS)
    names = tuple(one.name for one in programs.ALL)
    wanted = _chosen(options.program, names, "program", QUICK_PROGRAMS if quick else names)
    options.program = [one for one in programs.ALL if one.name in wanted]
    ways = (LAUNCHED, ATTACHED)
    options.ways = _chosen(options.ways, ways, "way", ways[:1] if quick else ways)
    options.load = _chosen(options.load, LOADS, "load", LOADS)
    engines = [name.replace("-c", " -c") for name in words(options.engines)]
    known = (*ENGINES, "none")
    # Quickly: the first that is allowed for each measure.
    options.one_engine_each = quick and not engines
    options.engines = _chosen(engines, known, "engine", tuple(ENGINES))
    options.python = choose_pythons(words(options.python), quick)
    options.profilers = list(map(others.parse_template, options.other))
    if options.others:
        options.profilers += others.find_installed()


def choose_pythons(wanted: list[str], quick: bool) -> list[Interpreter]:
    if paths := [word for word in wanted if "/" in word]:
        # The finder asks each whether it is a CPython that is supported.
        os.environ["ECHION_TEST_PYTHONS"] = os.pathsep.join(paths)
    found = list(find_interpreters())
    versions = [word for word in wanted if "/" not in word]
    if any(word.endswith("t") for word in versions):
        found += find_free_threaded()
    for word in versions:
        if not any(_is_version(one, word) for one in found):
            raise ValueError(f"no CPython {word} found")
    if versions:
        found = [one for one in found if any(_is_version(one, word) for word in versions)]
    if not found:
        raise ValueError("no CPython found that is supported")
    if quick and not wanted:
        return [found[0], found[-1]] if len(found) > 1 else found
    return found


def _is_version(python: Interpreter, word: str) -> bool:
    return python.is_called(word) or python.name == word


def make_cases(options: argparse.Namespace, program: pathlib.Path) -> list[Case]:
    engines = []
    for name in options.engines:
        if name == "none":
            continue
        if reason := why_not(ENGINES[name][0], program):
            print(f"without {name}: {reason.splitlines()[0]}", file=sys.stderr)
        else:
            engines.append(name)
    if options.one_engine_each:
        first = {ENGINES[name][1]: name for name in reversed(engines)}
        engines = [name for name in engines if name in first.values()]
    cases = []
    for python in options.python:
        profilers = [one for one in options.profilers if one.python is None]
        cases += _cases_of(options, python, engines, profilers)
    for profiler in options.profilers:
        if profiler.python:
            cases += _cases_of(options, profiler.python, [], [profiler])
    return cases


def _cases_of(
    options: argparse.Namespace,
    python: Interpreter,
    engines: list[str],
    profilers: list[others.Profiler],
) -> list[Case]:
    cases = []
    for program in options.program:
        for load in options.load:
            cases += [
                Case(program, python, way, name, load)
                for way in options.ways
                if way in program.ways
                for name in engines
                if ENGINES[name][1] in program.measures
            ]
            if program.is_for_others and LAUNCHED in options.ways:
                cases += [
                    Case(program, python, LAUNCHED, one.name, load, one) for one in profilers
                ]
    return cases


def report_progress(done: int, cases: list[Case], begin: float) -> None:
    left = ""
    if done:
        seconds = (time.monotonic() - begin) / done * (len(cases) - done)
        left = f", some {seconds / 60:.0f} min left" if seconds >= 90 else f", some {seconds:.0f} s left"
    print(f"[{done + 1}/{len(cases)}{left}] {cases[done]}", file=sys.stderr, flush=True)


def main() -> int:
    options = parse()
    build_dir = pathlib.Path(os.environ.get("ECHION_BUILD", ROOT / "build")).resolve()
    if not (build_dir / "echion").is_file():
        print(f"no echion in {build_dir}: build first (scripts/build)", file=sys.stderr)
        return 2
    bounds = Bounds()
    cases: list[Case] = []
    rows: list[Row] = []
    truths = Truths(build_dir, options.seconds, options.runs, options.hogs, options.keep)
    is_whole = False
    try:
        cases = make_cases(options, build_dir / "echion")
        if not cases:
            print("nothing to measure", file=sys.stderr)
            return 2
        begin = time.monotonic()
        for done, case in enumerate(cases):
            report_progress(done, cases, begin)
            rows.append(truths.measure(case, bounds))
            if missed := rows[-1].missed(bounds):
                print(f"    misses: {' '.join(missed)}", file=sys.stderr, flush=True)
        is_whole = True
    except KeyboardInterrupt:
        print(f"interrupted: {len(rows)} of {len(cases)} rows", file=sys.stderr)
    finally:
        truths.close()
    print(table.render(rows, bounds))
    if faults := table.render_faults(rows, bounds):
        print(f"\n{faults}")
    print(f"\n{table.render_totals(rows, bounds)}")
    if options.json:
        table.write_json(options.json, rows, bounds, is_whole)
    if not is_whole:
        return 130
    return int(any(row.missed(bounds) for row in rows if row.is_judged))


if __name__ == "__main__":
    sys.exit(main())
