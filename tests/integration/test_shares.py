"""A profile's times are the program's times."""

import pytest

from runner import Result

FUNCTIONS = ("ten", "thirty", "sixty")
POINTS = 0.02  # of the whole
LIFETIME = 0.01
TICK_US = 1000


@pytest.fixture(scope="module")
def runs():
    return {}


@pytest.fixture
def result(runs, echion, engine, python) -> Result:
    """One run for each interpreter and engine, shared by the tests below."""
    key = (python, engine)
    if key not in runs:
        options = ["-i", str(TICK_US), "--engine", engine]
        runs[key] = echion.run_target(python, "shares", "3", options=options).check()
    return runs[key]


def test_functions_have_the_shares_that_they_measured_themselves(result):
    profile, spent = result.profile, result.report["spent"]
    whole = sum(spent.values())
    seen = {name: profile.total_with("work", name, thread="MainThread") for name in FUNCTIONS}
    in_all = sum(seen.values())
    for name in FUNCTIONS:
        assert abs(seen[name] / in_all - spent[name] / whole) < POINTS, (seen, spent)


def test_a_sleeping_threads_time_is_its_lifetime(result):
    lifetime_us = result.report["lifetimes"]["sleeper"] * 1e6
    seen = result.profile.total_with("run", "sleeper")
    assert seen == pytest.approx(lifetime_us, rel=LIFETIME, abs=2 * TICK_US)


def test_the_main_threads_time_is_the_time_that_it_worked(result):
    lifetime_us = result.report["lifetimes"]["work"] * 1e6
    seen = result.profile.total(
        lambda sample: sample.thread == "MainThread" and any(map(sample.has, FUNCTIONS))
    )
    # What a sampler that did not get a CPU has missed, the profile says; some may be of the start.
    missed = result.profile.total(lambda s: s.thread == "MainThread" and s.is_missed)
    assert seen <= (1 + LIFETIME) * lifetime_us + 2 * TICK_US
    assert seen + missed >= (1 - LIFETIME) * lifetime_us - 2 * TICK_US


def test_the_main_threads_time_is_the_profiles_duration(result):
    profile = result.profile
    seen = sum(sample.metric for sample in profile.of_thread("MainThread"))
    assert seen == pytest.approx(profile.figure("duration"), rel=LIFETIME, abs=10 * TICK_US)
