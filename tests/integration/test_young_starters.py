"""A thread that starts others before it has been looked at keeps its name, and so do they."""

import pytest


@pytest.mark.parametrize("options", [[], ["-i", "10ms"]], ids=["1ms", "10ms"])
def test_have_their_names(echion, python, engine, options):
    result = echion.run_target(
        python, "young_starter", "10", options=[*options, "--engine", engine]
    ).check()
    profile = result.profile
    spent_s = result.report["spent_s"]
    strange = set(profile.thread_totals()) - {"MainThread", "echion.core.sampler", *spent_s}
    assert not strange
    # Each lives for more than 100 ms.
    assert set(spent_s) <= profile.thread_names()
