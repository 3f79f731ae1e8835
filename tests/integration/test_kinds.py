"""Every kind of code shows under its own stack, name and file."""

import collections

import pytest

from runner import Result

NEARLY = 0.6  # of a scene's time; what is missing went to late ticks and the scene's own frame
SECONDS = 0.3


@pytest.fixture(scope="module")
def runs():
    return {}


@pytest.fixture
def kinds(runs, echion, python) -> Result:
    if python not in runs:
        runs[python] = echion.run_target(
            python, "kinds", str(SECONDS), options=["-i", "1000"]
        ).check()
    return runs[python]


def test_every_scene_shows_under_its_stack_for_its_time(kinds):
    profile, missing = kinds.profile, []
    missed = profile.figure("missed_us") / 1e6  # on a machine that is busy with other work
    for scene in kinds.report["scenes"]:
        seen = profile.total_with(*scene["names"]) / 1e6
        # Scenes share the file and `spin`, so that only the whole stack tells them apart.
        if not NEARLY * scene["seconds"] - missed <= seen <= scene["seconds"] / NEARLY:
            missing.append((scene["names"], scene["seconds"], seen))
    assert not missing


def test_files_keep_their_names(kinds):
    files = kinds.report["files"]
    seen = {
        frame.name: frame.file
        for sample in kinds.profile.samples
        for frame in sample.frames
        if frame.name in files
    }
    assert seen == files


def test_import_shows_the_frozen_importlib(kinds):
    inside = [sample for sample in kinds.profile.samples if sample.has("run_import")]
    assert any(
        frame.file == "<frozen importlib._bootstrap>" and frame.line > 0
        for sample in inside
        for frame in sample.frames
    )


def test_no_stack_is_marked_invalid_while_the_program_runs(kinds):
    samples = kinds.profile.samples
    marked = sum(sample.metric for sample in samples if sample.is_marked and sample.has("main"))
    assert marked <= 0.02 * kinds.profile.total()


@pytest.fixture
def awkward(runs, echion, python) -> Result:
    key = ("awkward", python)
    if key not in runs:
        runs[key] = echion.run_target(python, "awkward", "0.15", options=["-i", "1000"]).check()
    return runs[key]


def test_awkward_names_break_no_line(awkward):
    text = awkward.output.read_bytes().decode("utf-8")  # whatever a name holds, it is UTF-8
    header, samples, footer = text.split("\n\n")
    assert all(line.startswith("# ") for line in (header + "\n" + footer).strip().split("\n"))
    assert all(line.startswith("P") for line in samples.split("\n"))
    assert "\0" not in text and "\r" not in text
    assert len(awkward.profile.samples) == samples.count("\n") + 1


def test_awkward_names_stay_apart(awkward):
    """Each name has its thread, function and file, and its time, whatever was replaced in it."""
    totals = collections.Counter()
    for sample in awkward.profile.samples:
        if sample.has("spin") and len(sample.frames) > 1 and sample.frames[-2].line > 0:
            caller = sample.frames[-2]
            if caller.file.startswith(awkward.report["folder"]):
                totals[caller.function, caller.file] += sample.metric
    assert len(totals) == awkward.report["count"], totals
    missed = awkward.profile.figure("missed_us")
    for name, total in totals.items():
        assert total + missed >= NEARLY * awkward.report["seconds"] * 1e6, name


def test_plain_names_are_left_as_they_are(awkward):
    for name in ("digits at the end 123", "\U0001f40d\U0001f525", "ff"):
        own = [s for s in awkward.profile.of_thread(name) if s.frames]
        assert any(frame.function == name for sample in own for frame in sample.frames), name
