"""What the kernel's copies of stacks cannot tell does not go to the stacks that they can."""

import pytest

INTERVAL_US = 250  # several ticks while the sampler sleeps
POINTS = 0.05  # of the whole


@pytest.mark.parametrize("kind", ["replaced", "deep"])
def test_two_halves_have_their_shares(kind, echion, cpu_engine, python):
    options = ["-c", "-i", str(INTERVAL_US), "--engine", cpu_engine]
    result = echion.run_target(python, "in_two_halves", kind, options=options).check()
    spent = result.report["spent"]
    seen = {
        name: result.profile.total(lambda sample, name=name: name in sample.names)
        for name in spent
    }
    share = spent[kind] / sum(spent.values())
    assert seen[kind] / sum(seen.values()) == pytest.approx(share, abs=POINTS), (seen, spent)
