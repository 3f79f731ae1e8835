"""In 3.11 and 3.12 a call of Python code by C code shows no frames in its first instructions, as if the
thread had none (CPython Python/ceval.c, _PyEval_EvalFrameDefault). No sample may say so."""

from __future__ import annotations

import pytest

from interpreters import Interpreter, find_interpreters
from runner import Echion

# Versions in which a _PyCFrame leads to the newest frame.
WITH_CFRAMES = [one for one in find_interpreters() if one.minor in ((3, 11), (3, 12))]
OPTIONS = ["-i", "100"]


@pytest.mark.parametrize("with_cframes", WITH_CFRAMES, ids=lambda one: one.name)
def test_no_sample_in_the_midst_of_it_is_without_frames(
    echion: Echion, engine: str, with_cframes: Interpreter
) -> None:
    options = [*OPTIONS, "--engine", engine]
    profile = echion.run_target(with_cframes, "known_stacks", "3", options=options).check().profile
    samples = list(profile.of_thread("MainThread"))
    within = ["rounds_alone" in one.names for one in samples]
    first, last = within.index(True), len(within) - within[::-1].index(True)
    bare = sum(one.metric for one in samples[first:last] if not one.frames and not one.is_marked)
    assert bare == 0
    assert sum(one.metric for one in samples[first:last]) > 2e6
    assert profile.figure("invalid") == 0
