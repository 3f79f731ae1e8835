"""CPU time that is easily lost, or counted twice: of threads that have ended, of a program before
exec, of processes that look alike. Judged by the kernel's own figures for the process."""

from __future__ import annotations

import collections
import json
import shutil

import pytest

from interpreters import Interpreter
from profile_text import Profile
from runner import PROFILE_NAMES, TARGETS, Echion, Result

OPTIONS = ("-c", "-i", "1000")


def total_s(profile: Profile) -> float:
    return profile.total() / 1e6


# Each program's start until its agent comes, before the first Python code, is nobody's: some 10 ms.
START_S = 0.02


def test_programs_one_after_the_other_in_a_process_are_counted_once(
    echion: Echion, python: Interpreter, cpu_engine: str
) -> None:
    programs, used_s = 4, 0.1
    result = echion.run_target(
        python, "cpu_kept", "exec", str(programs), str(used_s),
        options=[*OPTIONS, "--engine", cpu_engine],
    ).check()
    process_s = result.report["process_s"]
    assert process_s >= programs * 2 * used_s
    assert process_s - programs * START_S - 0.03 * process_s <= total_s(result.profile)
    assert total_s(result.profile) <= 1.03 * process_s + 0.01


def run_between_ticks(
    echion: Echion, python: Interpreter, cpu_engine: str, *arguments: str, interval: str
) -> Result:
    """Ticks so rare that nearly all is used between them."""
    if cpu_engine != "bpf":
        pytest.skip("without BPF nobody counts CPU time between ticks")
    return echion.run_target(
        python, "cpu_kept", *arguments, options=["-c", "-i", interval, "--engine", cpu_engine]
    ).check()


def test_what_a_program_used_since_its_last_tick_is_kept_over_exec(
    echion: Echion, any_python: Interpreter, cpu_engine: str
) -> None:
    result = run_between_ticks(echion, any_python, cpu_engine, "exec", "3", "0.1", interval="1s")
    assert total_s(result.profile) == pytest.approx(result.report["process_s"], rel=0.03, abs=0.06)


def test_threads_that_have_long_ended_are_accounted_for(
    echion: Echion, any_python: Interpreter, cpu_engine: str
) -> None:
    """The sampler sleeps through the threads' lives."""
    result = run_between_ticks(
        echion, any_python, cpu_engine, "rare", "3", "0.04", interval="100ms"
    )
    assert total_s(result.profile) >= 0.97 * result.report["threads_s"]
    assert total_s(result.profile) <= 1.03 * result.report["process_s"] + 0.01


def test_processes_with_the_same_numbers_are_kept_apart(
    echion: Echion, any_python: Interpreter, cpu_engine: str, needs_root: None
) -> None:
    """In PID namespaces of their own both see themselves as process 1."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1)")
    reports = [echion.folder / "one.json", echion.folder / "two.json"]
    lines = [
        f"ECHION_TEST_REPORT={report} unshare -p -f {any_python.path}"
        f" {TARGETS / 'cpu_kept.py'} alone 1 {used_s} &"
        for report, used_s in zip(reports, (0.2, 0.5))
    ]
    result = echion.run(
        ["sh", "-c", "\n".join([*lines, "wait"])], *OPTIONS, "--engine", cpu_engine
    ).check()
    assert result.profile.header["engine"] == PROFILE_NAMES[cpu_engine]
    used_s = collections.Counter()
    for sample in result.profile.samples:
        used_s[sample.pid] += sample.metric / 1e6
    expected_s = sorted(json.loads(one.read_text())["process_s"] for one in reports)
    assert sorted(used_s.values()) == pytest.approx(expected_s, rel=0.03, abs=2 * START_S)
