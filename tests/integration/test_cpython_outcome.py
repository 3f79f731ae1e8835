"""What scripts/cpython-tests makes of a run of CPython's tests, which a script plays here."""

from __future__ import annotations

import pathlib
import sys

import pytest

from conftest import ROOT
from whereabouts import wait_until

sys.path.insert(0, str(ROOT / "tests/cpython"))

import outcome as outcome_module  # noqa: E402
from outcome import ENDED, ERROR, FAILED, PASSED, SKIPPED, run_file  # noqa: E402

REPORT = """<testsuites><testsuite name="test_x">
<testcase name="test.test_x.T.test_good" status="run"/>
<testcase name="test.test_x.T.test_bad"><failure type="x">Traceback
AssertionError: 1 != 2
</failure></testcase>
<testcase name="test.test_x.T.test_worse"><error>OSError: no</error></testcase>
<testcase name="test.test_x.T.test_left_out"><skipped>needs a net</skipped></testcase>
<testcase name="test.test_x.T.test_parts"/>
<testcase name="test.test_x.T.test_parts"><failure>AssertionError: part 2</failure></testcase>
<testcase name="test.test_x.T.test_parts"/>
</testsuite></testsuites>"""


@pytest.fixture
def fake(tmp_path):
    """Runs a shell script in the place of an interpreter: $5 is the report that it is to write."""

    def run(script, limit_s=60.0, **keywords):
        python = tmp_path / "python"
        python.write_text("#!/bin/sh\n" + script)
        python.chmod(0o755)
        return run_file(str(python), "test_x", tmp_path / "log", limit_s, **keywords)

    return run


def test_each_test_has_its_result(fake):
    outcome = fake(f"cat >\"$5\" <<'END'\n{REPORT}\nEND\nexit 2\n")
    prefix = "test.test_x.T.test_"
    assert outcome.results == {
        prefix + "good": PASSED,
        prefix + "bad": FAILED,
        prefix + "worse": ERROR,
        prefix + "left_out": SKIPPED,
        prefix + "parts": FAILED,
    }
    assert outcome.reasons[prefix + "bad"] == "AssertionError: 1 != 2"
    assert outcome.reasons[prefix + "parts"] == "AssertionError: part 2"
    assert outcome.bad() == {prefix + "bad", prefix + "worse", prefix + "parts"}


def test_a_crash_is_a_failure_and_tells_the_last_test(fake):
    outcome = fake("echo 'test_a (test.test_x.T.test_a) ... ok'; echo 'test_b (test.test_x.T) ...'; kill -SEGV $$\n")
    assert outcome.bad() == {ENDED}
    assert "ended with -11" in outcome.reasons[ENDED]
    assert "last test to begin was test_b (test.test_x.T)" in outcome.reasons[ENDED]


def test_a_run_that_hangs_is_ended_with_all_that_it_started(fake, tmp_path):
    pids = tmp_path / "pids"
    outcome = fake(f"sleep 1000 & echo $! >{pids}; wait\n", limit_s=0.5)
    assert outcome.bad() == {ENDED}
    assert "over the limit" in outcome.reasons[ENDED]
    stat = pathlib.Path(f"/proc/{pids.read_text().strip()}/stat")
    # A zombie, if nobody waits for orphans here.
    wait_until(lambda: not stat.exists() or ") Z " in stat.read_text(), "the end of its child")


def test_no_tests_at_all_is_no_success(fake):
    outcome = fake("echo nothing to do; exit 0\n")
    assert outcome.bad() == {ENDED}
    assert not fake("echo test_x skipped -- no network\n").bad()


def test_an_attachment_that_does_not_come_back_is_a_failure_and_is_described(
    fake, tmp_path, monkeypatch
):
    monkeypatch.setattr(outcome_module, "ATTACH_LIMIT_S", 0.5)
    echion = tmp_path / "echion"
    echion.write_text("#!/bin/sh\necho 'what it said' >&2\nexec sleep 1000\n")
    echion.chmod(0o755)
    outcome = fake(f"cat >\"$5\" <<'END'\n{REPORT}\nEND\nsleep 1\n", attach=echion)
    assert f"{ENDED}: attaching" in outcome.bad()
    described = (tmp_path / "log.fault").read_text()
    assert "Name: sleep, State: S" in described and "what it said" in described


def test_what_is_wrapped_and_chosen(fake):
    outcome = fake("exit 9\n", wrap=["sh", "-c", 'echo "$@" >&2; exit 0', "sh"], only=["test_a"])
    assert outcome.bad() == {ENDED}  # the wrapper ran in its place
    command = outcome.reasons[ENDED]
    assert "-m test -v" in command and "-m test_a " in command and command.endswith(" test_x")
