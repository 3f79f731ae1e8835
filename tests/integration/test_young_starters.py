"""A thread that starts others before it has been looked at keeps its name, and so do they."""

import pytest

# A thread's start and end, outside its own measurement, and a look that came late.
ALLOWANCE_S = 0.015


@pytest.mark.parametrize("options", [[], ["-i", "10ms"]], ids=["1ms", "10ms"])
def test_have_their_names_and_times(echion, python, engine, options):
    result = echion.run_target(
        python, "young_starter", "10", options=[*options, "--engine", engine]
    ).check()
    profile = result.profile
    spent_s = result.report["spent_s"]
    strange = set(profile.thread_totals()) - {"MainThread", "echion.core.sampler", *spent_s}
    assert not strange
    allowed_s = ALLOWANCE_S + 0.02 * bool(options)
    for name, seconds in spent_s.items():
        in_function = profile.total(
            lambda one: one.thread == name and (one.has("works") or one.has("starts"))
        )
        missed = profile.total(lambda one: one.thread == name and one.has(":MISSED:"))
        assert abs(in_function + missed - seconds * 1e6) <= allowed_s * 1e6, name
