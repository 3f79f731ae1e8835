"""Tasks of asyncio whose event loop is uvloop's: what test_tasks.py asks for, where the loop has no Python
frames of its own."""

from __future__ import annotations

import pytest

import test_tasks
from attach_support import start_target
from interpreters import Interpreter
from runner import TARGETS
from task_stacks import part
from test_tasks import LEAF, look

FREE_THREADED = "all"
# Who runs the loop in front of all tasks, as uvloop has no frames: asyncio.run(), or Runner.run().
IN_FRONT = "run"
IN_FRONT_OF_CHURN = (IN_FRONT, "_cancel_all_tasks")  # the latter at the end


@pytest.fixture
def env(packages, request) -> dict[str, str]:
    names = request.fixturenames
    python = request.getfixturevalue("every_python" if "every_python" in names else "python")
    return packages(python, "uvloop")


def command(python: Interpreter, *arguments: str) -> list[str]:
    return [*test_tasks.command(python, *arguments), "uvloop"]


def churn(python: Interpreter) -> list[str]:
    return [python.path, str(TARGETS / "task_churn.py"), "1", "uvloop"]


def test_suspended_tasks(every_python, build_dir, env, tmp_path):
    expected = test_tasks.expect(every_python.minor)
    with start_target(tmp_path, command(every_python, ",".join(expected)), env) as target:
        report = look(build_dir, target.pid)
    wanted = {"main": ("suspended", ["main", "wait"], [])}
    for tasks in expected.values():
        wanted.update(tasks)
    assert report.tasks == wanted
    assert report.functions[-1] == IN_FRONT


def test_a_running_task(every_python, build_dir, env, tmp_path):
    with start_target(tmp_path, command(every_python, "running_below"), env) as target:
        report = look(build_dir, target.pid)
    assert report.tasks == test_tasks.RUNNING_BELOW
    assert report.functions[-4:] == [IN_FRONT, "running", "running_inner", "compute"]


def test_eager_tasks(every_python, build_dir, env, tmp_path):
    if every_python.minor < (3, 12):
        pytest.skip("CPython 3.12 and later have eager tasks")
    if (3, 13) <= every_python.version < (3, 13, 3):
        pytest.skip("uvloop calls a factory of tasks as CPython 3.13.3 and later do")
    with start_target(tmp_path, command(every_python, "eager"), env) as target:
        report = look(build_dir, target.pid)
    assert report.tasks["eager/eager-leaf"] == (*LEAF, [])


def test_a_late_import(python, build_dir, env, tmp_path):
    with start_target(tmp_path, command(python, "awaited", "late"), env) as target:
        report = look(build_dir, target.pid)
    assert report.tasks["awaited/leaf"] == (*LEAF, ["awaited/root"])


def test_suspended_tasks_in_a_profile(every_python, echion, env, tmp_path):
    expected = test_tasks.expect(every_python.minor)
    with start_target(tmp_path, command(every_python, ",".join(expected)), env) as target:
        result = echion.run(["-p", str(target.pid)], "-x", "1").check()
    test_tasks.check_suspended(result.profile, expected, (IN_FRONT,))


def test_stacks_of_tasks_are_possible(python, echion, engine, env, tmp_path):
    waits = {**env, "ECHION_TEST_AWAIT_SAMPLER": "1"}
    with start_target(tmp_path, churn(python), waits) as target:
        result = echion.run(["-p", str(target.pid)], "-i", "100", "--engine", engine).check()
    test_tasks.judge_churn(result.profile, IN_FRONT_OF_CHURN)


def test_tasks_are_found_after_a_launch(python, echion, env):
    profile = echion.run(churn(python), env=env).check().profile
    test_tasks.judge_launched_churn(profile, IN_FRONT_OF_CHURN)


@pytest.mark.parametrize("mode", [[], ["-c"]], ids=["wall", "cpu"])
def test_a_running_task_in_a_profile(every_python, echion, env, mode, tmp_path):
    with start_target(tmp_path, command(every_python, "running_below"), env) as target:
        result = echion.run(["-p", str(target.pid)], "-x", "0.5", *mode).check()
    computing = [sample for sample in result.profile.samples if sample.has("compute")]
    assert computing
    for sample in computing:
        front, tasks = part(sample)
        assert front[-1] == IN_FRONT
        assert tasks == [
            ("main", ["main"]),
            ("running_below/root", ["running_below"]),
            ("running_below/runner", ["running", "running_inner", "compute"]),
        ]
