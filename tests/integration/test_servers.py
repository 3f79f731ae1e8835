"""Servers of other people, under load: no request is lost, and the profile has what each of them did."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from attach_support import start_target
from conftest import LONG
from profile_text import Profile
from servers import KINDS, SERVERS, Server, ask_once, load, make_socket
from task_stacks import part

FREE_THREADED = True
REQUESTS = 600
POINTS = 0.05  # of what all requests used
CPU = 0.1  # of the CPU time that their functions measured themselves


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    return SERVERS[request.param]


@pytest.fixture
def env(packages, python, any_python, server) -> dict[str, str]:
    if not LONG and python.path != any_python.path:
        pytest.skip("other interpreters than the newest: ECHION_TEST_LONG=1")
    return packages(python, *server.packages)


@pytest.fixture(params=["wall", "cpu"])
def options(request: pytest.FixtureRequest) -> list[str]:
    return ["-i", "250"] if request.param == "wall" else ["-c", "-i", "250"]


def judge(server: Server, options: list[str], profile: Profile, report: dict[str, Any]) -> None:
    assert report["served"] == {kind: REQUESTS // len(KINDS) for kind in KINDS}
    spent = {kind: seconds * 1e6 for kind, seconds in report["spent"].items()}
    seen = {kind: profile.total_with(kind, f"burn_{kind}", "burn") for kind in KINDS}
    for kind in KINDS:
        share = seen[kind] / sum(seen.values())
        assert abs(share - spent[kind] / sum(spent.values())) < POINTS, (seen, spent)
    if "-c" in options:
        assert sum(seen.values()) == pytest.approx(sum(spent.values()), rel=CPU)
    burning = [one for one in profile.samples if one.has("burn") and not one.is_marked]
    for sample in burning if server.has_tasks else ():
        front, tasks = part(sample)
        assert not {*KINDS, "burn"} & set(front) and tasks, sample
        assert {"burn"} & set(tasks[-1][1]), sample


def test_launched(python, echion, server, options, env):
    with make_socket() as listening:
        command = server.command(python, listening)
        with echion.start(command, *options, env=env, pass_fds=[listening.fileno()]) as running:
            running.wait_ready()
            load(listening, REQUESTS)
            ask_once(listening, "end")
            result = running.finish().check()
    assert not result.stdout and not result.stderr
    judge(server, options, result.profile, result.report)


def test_attached(python, echion, server, options, env, tmp_path):
    with make_socket() as listening:
        command = server.command(python, listening)
        with start_target(tmp_path, command, env, pass_fds=[listening.fileno()]) as target:
            ask_once(listening, "idle")
            with echion.start([], *options, "-p", str(target.pid)) as running:
                target.wait_until_sampled(0)  # asleep, it makes no ticks of CPU time
                load(listening, REQUESTS)
                running.process.send_signal(signal.SIGINT)
                result = running.finish().check()
            ask_once(listening, "idle")
            ask_once(listening, "end")
            report = target.finish()
    judge(server, options, result.profile, report)
