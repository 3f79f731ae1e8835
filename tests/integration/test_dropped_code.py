"""A name in a profile is that of the code which ran, not of code that was in its place before."""

import pytest

from conftest import LONG

RUNS = 50 if LONG else 3
TICK_US = 1000
# A wrong name moves a whole wait; a sampler that comes late on a busy machine moves less.
APART_US = 30_000
SLEEP_US = 300_000
SCRIPT = """
import time
def serve_forever():
    time.sleep(0.3)
serve_forever()
"""


@pytest.mark.parametrize("run", range(RUNS))
def test_a_command_that_waits_is_not_what_started_it(run, echion, engine, every_python):
    command = [every_python.path, "-c", "import time; time.sleep(0.3)"]
    profile = echion.run(command, "--engine", engine).check().profile
    waiting = profile.total(
        lambda sample: sample.frames
        and (sample.frames[-1].file, sample.frames[-1].function) == ("<string>", "<module>")
    )
    missed = profile.figure("missed_us")  # on a machine that is busy with other work
    assert waiting + missed > 0.9 * SLEEP_US, [(one.names, one.metric) for one in profile.samples]


@pytest.mark.parametrize("run", range(RUNS))
def test_a_script_that_waits_has_only_its_own_frames(run, echion, engine, every_python, tmp_path):
    script = tmp_path / "server.py"
    script.write_text(SCRIPT)
    profile = echion.run([every_python.path, script], "--engine", engine).check().profile
    stacks = [
        [(frame.file, frame.function) for frame in sample.frames]
        for sample in profile.samples
        if "serve_forever" in sample.names
    ]
    assert stacks
    expected = [(str(script), "<module>"), (str(script), "serve_forever")]
    assert all(stack == expected for stack in stacks), stacks


@pytest.mark.parametrize("run", range(RUNS))
def test_generated_code_has_its_own_time(run, echion, engine, every_python):
    options = ["--engine", engine, "-i", str(TICK_US)]
    result = echion.run_target(every_python, "dropped_code", options=options).check()
    spent = result.report["spent"]
    assert len(spent) == 12
    missed = result.profile.figure("missed_us")
    for name, seconds in spent.items():
        seen = result.profile.total(
            lambda sample: any(frame.file == f"{name}.html" for frame in sample.frames)
        )
        assert seen <= seconds * 1e6 + APART_US, (name, seconds)
        assert seen + missed >= seconds * 1e6 - APART_US, (name, seconds)
