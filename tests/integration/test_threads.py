"""Threads of every origin show with their names, stacks and times."""

import subprocess

import pytest

from runner import TARGETS, Result

FREE_THREADED = True  # see conftest.py
SECONDS = 0.5
NEARLY = 0.8
NAMES_EVERY_S = 0.35  # a quarter of a second, and some for a busy machine
TICK_US = 1000
SAMPLER = "echion.core.sampler"


def run_scene(echion, python, scene: str, *more: str) -> Result:
    arguments = [scene, str(SECONDS), *more]
    return echion.run_target(python, "threads", *arguments, options=["-i", str(TICK_US)]).check()


def assert_about(seen_us: int, seconds: float) -> None:
    assert seen_us >= NEARLY * seconds * 1e6
    assert seen_us <= seconds * 1e6 / NEARLY + 50 * TICK_US


@pytest.mark.parametrize(
    "scene, first, second",
    [("renamed", "first name", "second name"), ("main_renamed", "MainThread", "the boss")],
)
def test_a_renamed_thread_changes_its_name(echion, python, scene, first, second):
    profile = run_scene(echion, python, scene).profile
    assert_about(profile.total_with("before_rename", thread=first), SECONDS)
    assert profile.total_with("before_rename", thread=second) == 0
    # The new name is seen when the names are next looked at, not at once.
    assert profile.total_with("after_rename", thread=second) >= (SECONDS - NAMES_EVERY_S) * 1e6
    assert_about(profile.total_with("after_rename"), SECONDS)


def test_a_thread_of_the_low_level_module_shows(echion, python):
    profile = run_scene(echion, python, "low_level").profile
    assert_about(profile.total_with("low_level_work", "spin"), SECONDS)
    assert profile.total_with("low_level_work", thread="MainThread") == 0


def test_a_thread_made_in_c_shows_its_python_frames(echion, python):
    profile = run_scene(echion, python, "foreign").profile
    assert_about(profile.total_with("foreign_work", "spin"), SECONDS)
    assert profile.total_with("foreign_work", thread="MainThread") == 0


def test_threads_without_a_python_frame_disturb_nobody(echion, python, tmp_path):
    library = tmp_path / "c_thread.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", library, TARGETS / "c_thread.c", "-pthread"], check=True
    )
    profile = run_scene(echion, python, "frameless", str(library)).profile
    assert_about(profile.total_with("frameless_main", "spin", thread="MainThread"), SECONDS)
    bare = [s for s in profile.samples if not s.frames and s.thread not in ("MainThread", SAMPLER)]
    assert_about(sum(sample.metric for sample in bare), SECONDS)
    assert len({sample.thread for sample in bare}) == 1


def test_each_call_from_c_has_its_own_time_only(echion, python, engine, tmp_path):
    """A thread that is older than its thread state has not been missed until then."""
    library = tmp_path / "c_thread.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-o", library, TARGETS / "c_thread.c", "-pthread"], check=True
    )
    result = echion.run_target(
        python, "called_back", str(library), options=["--engine", engine]
    ).check()
    calls = [s for s in result.profile.samples if s.thread not in ("MainThread", SAMPLER)]
    whole_us = result.report["whole_s"] * 1e6
    assert sum(sample.metric for sample in calls) <= 1.1 * whole_us
    seen_us = result.profile.total_with("called_back")
    assert seen_us + result.profile.figure("missed_us") >= 0.7 * result.report["called_back_s"] * 1e6


def test_threads_of_one_name_are_both_counted(echion, python):
    profile = run_scene(echion, python, "twins").profile
    assert_about(profile.total_with("twin_work", thread="twin"), 2 * SECONDS)


def test_threads_that_live_five_milliseconds_are_seen(echion, python):
    result = run_scene(echion, python, "short")
    seen = {s.thread for s in result.profile.samples if s.has("short_work", "spin")}
    named = {name for name in seen if name.startswith("short-")}
    # A tick that the machine did not give cannot see a thread: only ticks in time count.
    profile = result.profile
    in_time = profile.figure("ticks") / (profile.figure("ticks") + profile.figure("missed_ticks"))
    assert len(seen) >= NEARLY * in_time * result.report["answer"]
    assert len(named) >= 0.5 * len(seen), seen - named


def test_code_in_sub_interpreters_shows_their_numbers(echion, python):
    result = run_scene(echion, python, "interpreters")
    first, second = result.report["answer"]
    for number in (first, second):
        inside = sum(
            sample.metric
            for sample in result.profile.samples
            if sample.iid == number and sample.has("<module>", "inside_the_interpreter")
        )
        assert_about(inside, SECONDS)
    elsewhere = [s for s in result.profile.samples if s.has("inside_the_interpreter")]
    assert {sample.iid for sample in elsewhere} == {first, second}


def test_a_hundred_sleeping_threads_are_all_there(echion, python):
    result = run_scene(echion, python, "crowd")
    totals = result.profile.thread_totals()
    crowd = {name: total for name, total in totals.items() if name.startswith("crowd-")}
    assert len(crowd) == 100
    # Until names are looked at, on a busy machine a while after, a new thread goes by its number.
    numbered = sum(total for name, total in totals.items() if name.startswith("thread-"))
    for total in crowd.values():
        assert total + numbered >= NEARLY * result.report["answer"] * 1e6
    whole = sum(crowd.values()) + numbered
    assert whole >= NEARLY * len(crowd) * result.report["answer"] * 1e6


def test_a_name_that_comes_late_is_found_as_soon_as_it_is_there(echion, python, engine):
    """Later than names are looked for often, and for less time than lies between two looks after that."""
    result = echion.run_target(python, "late_names", options=["--engine", engine]).check()
    found = result.profile.thread_totals()
    assert set(result.report["names"]) <= set(found), found
    assert not [name for name in found if name.startswith("thread-")]
