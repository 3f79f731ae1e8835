"""Names of dropped functions go away, also when their memory is used for new ones."""

import pytest

STALE_S = 1.0
EARLY_S = 0.25  # how far the start of the calibration may be off: ticks are late, hosts pause


def test_no_name_outlives_its_function_by_more_than_a_second(echion, python):
    result = echion.run_target(python, "name_churn", "4", options=["-i", "500"]).check()
    lives = {name: (born, dropped) for name, born, dropped in result.report["lives"]}

    # The main thread's metrics, added up from the first sample in calibrate(), are its clock.
    now = None
    named = []
    wrong = []
    for sample in result.profile.of_thread("MainThread"):
        if now is None and sample.has("calibrate"):
            now = 0.0
        if now is None:
            continue
        begin, now = now, now + sample.metric / 1e6
        leaf = sample.frames[-1] if sample.frames else None
        if leaf is None or not leaf.name.startswith("born_"):
            continue
        born, dropped = lives[leaf.name]
        number = int(leaf.name.partition("_")[2])
        named.append(leaf.name)
        if begin > dropped + STALE_S or now < born - EARLY_S:
            wrong.append(f"{leaf.name} ({born:.3f}-{dropped:.3f}) seen at {begin:.3f}-{now:.3f}")
        assert leaf.file == f"<churn {number}>", f"{leaf} mixes two functions"
        assert number % 40 < leaf.line <= number % 40 + 6, f"{leaf} has another function's line"
    assert len(named) > 500
    assert now == pytest.approx(max(dropped for _, dropped in lives.values()), abs=EARLY_S)
    order = [int(name.partition("_")[2]) for name in named]
    # Functions are made one after the other: a name that stayed too long shows as a step back.
    back = sum(1 for before, after in zip(order, order[1:]) if after < before)
    print(f"{back} of {len(order)} samples step back to an older name")
    assert not wrong, "\n".join(wrong[:10])
