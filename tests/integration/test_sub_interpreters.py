"""Threads that go from one interpreter to another: one thread state is theirs in each, and they run
with one at a time. That one has their time, under their name and its own number."""

from __future__ import annotations

import pathlib

import pytest

from attach_support import start_target, target_command
from interpreters import Interpreter
from profile_text import Profile
from runner import Echion

FREE_THREADED = True  # see conftest.py
SECONDS = "0.9"
# Of a function's time: a sampler that has to share its CPU comes late to a new one.
TOLERANCE = 0.15


def check_functions(
    profile: Profile, inside: dict[str, dict[str, float]], clock: str, python: Interpreter
) -> None:
    """No more than that is certain on a busy machine, where a sampler misses beginnings and ends."""
    threads = {"inside_number_1": "MainThread", "outside": "MainThread", "inside_number_2": "runner"}
    for function, facts in inside.items():
        own = [one for one in profile.samples if function in one.names]
        assert {one.iid for one in own} <= {facts["number"]}, function
        # Before 3.11 it is known only if the sampler comes before the GIL has changed hands.
        names = {threads[function]} | ({"<unknown>"} if python.minor < (3, 11) else set())
        assert {one.thread for one in own} <= names, function
        seen_us = sum(one.metric for one in own)
        assert seen_us <= (1 + TOLERANCE) * facts[clock] * 1e6, function
    # The caller in the main interpreter has no time while the other one runs.
    if python.minor >= (3, 11):
        calling = [one for one in profile.samples if one.names and one.names[-1] == "run_inside"]
        seen_us = profile.total(lambda one: any(function in inside for function in one.names))
        assert seen_us > 0
        assert sum(one.metric for one in calling) <= TOLERANCE * seen_us


@pytest.mark.parametrize("metric", ["wall", "cpu"])
def test_time_belongs_to_the_interpreter_that_runs(
    echion: Echion, every_python: Interpreter, metric: str
) -> None:
    options = ["-c"] if metric == "cpu" else []
    result = echion.run_target(every_python, "interpreted", SECONDS, options=options).check()
    check_functions(result.profile, result.report["inside"], f"{metric}_s", every_python)


def test_cpu_time_with_each_engine(
    echion: Echion, python: Interpreter, cpu_engine: str
) -> None:
    result = echion.run_target(
        python, "interpreted", SECONDS, options=["-c", "--engine", cpu_engine]
    ).check()
    check_functions(result.profile, result.report["inside"], "cpu_s", python)


@pytest.mark.parametrize("metric", ["wall", "cpu"])
def test_interpreters_that_were_there_before_the_sampler(
    echion: Echion, python: Interpreter, tmp_path: pathlib.Path, metric: str
) -> None:
    options = ["-c"] if metric == "cpu" else []
    command = target_command(python, "interpreted", SECONDS)
    with start_target(tmp_path, command, {"ECHION_TEST_AWAIT_SAMPLER": "1"}) as target:
        with echion.start([], "-p", str(target.pid), *options) as running:
            report = target.finish()
            profile = running.finish().check().profile
    check_functions(profile, report["inside"], f"{metric}_s", python)


def test_a_thread_that_waits_in_a_sub_interpreter(
    echion: Echion, every_python: Interpreter, tmp_path: pathlib.Path
) -> None:
    with start_target(tmp_path, target_command(every_python, "waits_inside")) as target:
        with echion.start([], "-p", str(target.pid), "-x", "0.3") as running:
            profile = running.finish().check().profile
        number = target.finish()["number"]
    waiting = [one for one in profile.samples if "waits_inside" in one.names]
    assert {one.iid for one in waiting} == {number}
    # Before 3.11 nothing says which thread waits there, until it runs.
    if every_python.minor >= (3, 11):
        assert {one.thread for one in waiting} == {"runner"}
    # The one that waits for it is there as well, with as much time.
    joining = profile.total(lambda one: one.iid == 0 and "join" in one.names)
    assert joining == pytest.approx(sum(one.metric for one in waiting), rel=TOLERANCE)


def test_a_thread_that_has_left_a_sub_interpreter_has_no_more_time_there(
    echion: Echion, every_python: Interpreter, tmp_path: pathlib.Path
) -> None:
    # It waits for longer than it takes until the lists of threads are walked again.
    command = target_command(every_python, "waited_inside", "0.6")
    with start_target(tmp_path, command, {"ECHION_TEST_AWAIT_SAMPLER": "1"}) as target:
        with echion.start([], "-p", str(target.pid)) as running:
            report = target.finish()
            profile = running.finish().check().profile
    seen_us = profile.total(lambda one: "waits_inside" in one.names)
    assert 0 < seen_us <= (1 + TOLERANCE) * report["waited_s"] * 1e6


def test_interpreters_that_run_at_the_same_time(
    echion: Echion, every_python: Interpreter, engine: str
) -> None:
    if every_python.minor < (3, 12):
        pytest.skip("its interpreters share one GIL")
    result = echion.run_target(
        every_python, "own_gils", "3", "0.5", options=["--engine", engine]
    ).check()
    profile = result.profile
    duration_us = profile.figure("duration")
    for number in result.report["numbers"]:
        own = list(profile.of_thread(f"of-{number}"))
        inside = [one for one in own if "inside" in one.names]
        assert {one.iid for one in inside} <= {number}
        # One thread has one time, in however many interpreters it is.
        assert sum(one.metric for one in own) <= (1 + TOLERANCE) * duration_us
        # Where it calls the other interpreter from is no place that it is in meanwhile.
        calling = [one for one in own if one.iid == 0 and not one.is_marked]
        assert sum(one.metric for one in calling) <= 0.5 * duration_us
    assert any("inside" in one.names for one in profile.samples)


def test_threads_that_begin_inside_have_their_own_names(
    echion: Echion, every_python: Interpreter, engine: str
) -> None:
    if every_python.minor < (3, 12):
        pytest.skip("its interpreters share one GIL")
    options = ["--engine", engine, "-i", "500"]
    result = echion.run_target(every_python, "begins_inside", options=options).check()
    inside = [one for one in result.profile.samples if "inside" in one.names]
    assert {one.iid for one in inside} == set(result.report["numbers"])
    wrong = {(one.thread, one.iid): one.metric for one in inside if one.thread != f"of-{one.iid}"}
    assert not wrong


def test_no_thread_has_the_name_of_one_before(
    echion: Echion, every_python: Interpreter, engine: str
) -> None:
    """One whose name is not known yet has none."""
    options = ["--engine", engine, "-i", "500"]
    result = echion.run_target(every_python, "one_after_another", options=options).check()
    wrong = {}
    named = 0
    for one in result.profile.samples:
        for function in [name for name in one.names if name.startswith("inside_")]:
            number = function.split("_")[1]
            if one.thread == f"of-{number}":
                named += 1
            elif one.thread.startswith("of-"):
                wrong[one.thread, function] = one.metric
    assert named > 0
    assert not wrong


def test_threads_that_go_in_and_out(
    echion: Echion, every_python: Interpreter, engine: str
) -> None:
    options = ["--engine", engine]
    result = echion.run_target(every_python, "in_and_out", options=options).check()
    missed = result.profile.figure("missed_us")
    for function, own_us in (
        ("sleep_outside", result.report["outside_s"] * 1e6),
        ("sleep_inside", result.report["inside_s"] * 1e6),
    ):
        seen_us = result.profile.total_with(function)
        assert seen_us + missed >= (1 - TOLERANCE) * own_us, function
        # A sleep lasts longer on a busy machine, and what is in the sub-interpreter is not measured.
        if function == "sleep_outside":
            assert seen_us <= (1 + TOLERANCE) * own_us, function


def test_threads_that_run_one_interpreter_in_turns(
    echion: Echion, every_python: Interpreter, engine: str
):
    """That its thread does not run says nothing of a state that others run with, too."""
    options = ["--engine", engine]
    result = echion.run_target(every_python, "in_turns", options=options).check()
    missed_us = result.profile.figure("missed_us")
    inside = result.report["inside"]
    for function, seconds in inside.items():
        seen_us = result.profile.total_with(function)
        assert seen_us <= (1 + TOLERANCE) * seconds * 1e6, function
        assert seen_us >= (1 - TOLERANCE) * result.report["least_s"] * 1e6 - missed_us, function
