"""Stacks of every depth, whole or openly cut."""

import os

import pytest

FREE_THREADED = True  # see conftest.py
SECONDS = 1.0
NEARLY = 0.6
DEEPEST = 100_000
# A stack of that depth takes a tenth of a second to read on a busy machine, and some reads of it
# are torn while it is built: long enough for a good many.
SECONDS_FOR_THE_DEEPEST = 5.0


def run_deep(echion, python, depth: int, *options: str, seconds: float = SECONDS):
    return echion.run_target(
        python, "deep", str(depth), str(seconds), options=["-i", "2000", *options]
    ).check()


def with_spin(profile):
    return [s for s in profile.of_thread("deep") if s.frames and s.frames[-1].name == "spin"]


@pytest.mark.parametrize("depth", [500, 5000, DEEPEST])
def test_a_deep_stack_is_whole(echion, python, depth):
    seconds = SECONDS_FOR_THE_DEEPEST if depth == DEEPEST else SECONDS
    bound = str(2 * DEEPEST)
    profile = run_deep(echion, python, depth, "--max-frames", bound, seconds=seconds).profile
    samples = with_spin(profile)
    assert sum(sample.metric for sample in samples) >= NEARLY * seconds * 1e6
    whole = [s for s in samples if s.names.count("descend") == depth and not s.is_marked]
    assert sum(sample.metric for sample in whole) >= 0.98 * sum(s.metric for s in samples)
    assert whole[0].names[:3] == ("_bootstrap", "_bootstrap_inner", "run")
    assert profile.figure("truncated") == 0


def test_a_sampler_that_cannot_keep_up_leaves_the_program_its_cpu(echion, any_python):
    """Each tick takes far longer than the interval, on the one CPU that there is for both. Of the
    time, however much of it other programs take, the sampler's ticks have no more than half."""
    cpu = str(min(os.sched_getaffinity(0)))
    profile = echion.run_target(
        any_python,
        "deep",
        "5000",
        str(SECONDS),
        options=["-i", "50", "--max-frames", "6000", "--engine", "clock"],
        wrap=["taskset", "-c", cpu],
    ).check().profile
    assert profile.figure("missed_ticks") > profile.figure("ticks"), "it could keep up"
    assert profile.figure("sampler_tick_ns") <= 0.6 * profile.figure("duration") * 1000


def test_a_stack_beyond_the_bound_is_cut_at_its_root_and_says_so(echion, python):
    bound = 100
    profile = run_deep(echion, python, 5000, "--max-frames", str(bound)).profile
    samples = with_spin(profile)
    assert sum(sample.metric for sample in samples) >= NEARLY * SECONDS * 1e6
    for sample in samples:
        assert sample.frames[0].file == "" and sample.frames[0].line == 0, "no mark at the root"
        assert len(sample.frames) - 1 == bound
        assert sample.names[-2:] == ("bottom", "spin")
    assert profile.figure("truncated") >= len(samples)


def test_garbage_collection_shows_as_its_innermost_frame(echion, python):
    result = echion.run_target(python, "garbage", "1.5", options=["-i", "1000"]).check()
    collecting = result.profile.total(
        lambda sample: sample.has("main", "collect", "GC") and sample.frames[-1].file == ""
    )
    # What a sampler that did not get a CPU has missed, the profile says.
    missed = result.profile.figure("missed_us")
    measured = result.report["collecting"]
    assert collecting / 1e6 <= 1.1 * measured + 0.05
    assert (collecting + missed) / 1e6 >= 0.9 * measured - 0.05
