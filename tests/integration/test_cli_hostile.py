"""Agents that do not keep to the rules: echion ends their sessions, says so, and goes on."""

from __future__ import annotations

import os
import signal

import pytest

from austin_format import check_profile
from runner import why_not


@pytest.fixture
def fake(build_dir) -> str:
    return str(build_dir / "tests" / "fake_agent")


@pytest.mark.parametrize(
    "behaviour",
    [
        "connect-without-fd",
        "connect-with-a-file",
        "connect-with-many",
        "connect-with-garbage",
    ],
)
def test_who_does_not_connect_properly_is_not_let_in(echion, fake, behaviour):
    script = f'"{fake}" {behaviour}; "{fake}" exit 0'
    result = echion.run(["sh", "-c", script], "-s").check()
    assert len(check_profile(result.output.read_text()).samples) == 2
    assert result.stderr == ""


def test_what_takes_minutes_to_close_keeps_nobody(echion, fake):
    """A connection that lingers, of which echion has the last descriptor."""
    result = echion.run([fake, "connect-with-a-lingerer"], "-s", timeout=60).check()
    assert result.stderr.count("\n") == 1  # no Python there


def test_what_takes_minutes_to_close_may_lie_in_a_queue(echion, fake):
    result = echion.run([fake, "lingerer-in-queue"], "-s", timeout=60)
    assert "does not belong" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("long-hello", "too large"),
        ("short-hello", "does not belong"),
        ("foreign-hello", "does not belong"),
        ("other-version", "of version"),
        ("started-first", "does not belong"),
    ],
)
def test_a_bad_first_message_ends_the_session(echion, fake, behaviour, words):
    script = f'"{fake}" {behaviour}; "{fake}" exit 0'
    result = echion.run(["sh", "-c", script], "-s").check()
    assert len(check_profile(result.output.read_text()).samples) == 2
    assert words in result.stderr and result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize(
    "behaviour", ["hello-twice", "garbage-in-ring", "garbage-in-batch"]
)
def test_what_was_sampled_before_the_fault_is_kept(echion, fake, behaviour):
    result = echion.run([fake, behaviour], "-s").check()
    assert len(check_profile(result.output.read_text()).samples) == 2
    assert "not sampled to its end" in result.stderr and result.stderr.count("\n") == 1


def test_a_ring_that_makes_no_sense_ends_the_session(echion, fake):
    result = echion.run([fake, "head-out-of-bounds"], "-s")
    # Found out before or after the agent's first tick: then there is no profile.
    assert result.returncode == 0
    if result.output.exists():
        check_profile(result.output.read_text())
    assert "the head is out of bounds" in result.stderr and result.stderr.count("\n") == 1


def test_the_ring_cannot_be_shrunk_under_echion(echion, fake):
    assert echion.run([fake, "shrink-ring"]).check().stdout == "refused\n"


def test_an_agents_reason_is_told_and_leaves_no_file(echion, fake):
    result = echion.run([fake, "fail", "CPython 3.7 is not supported"])
    assert result.returncode == 0, "the command's"
    assert "cannot be sampled: CPython 3.7 is not supported\n" in result.stderr
    assert not result.output.exists()


def test_a_silent_agent_is_no_obstacle(echion, fake):
    with echion.start([fake, "silent"]) as running:
        running.wait_ready()
        os.kill(running.process.pid, signal.SIGTERM)
        result = running.finish()
    assert result.returncode == 128 + signal.SIGTERM
    assert "SIGTERM came before the first sample" in result.stderr and result.stderr.count("\n") == 1
    assert check_profile(result.output.read_text()).samples == []


def test_an_agent_that_does_not_stop_is_left_after_a_while(echion, fake):
    with echion.start([fake, "deaf"], "-x", "0.01", "-s") as running:
        running.wait_for("hung-up")
        result = running.finish().check()
    assert len(check_profile(result.output.read_text()).samples) == 2


def test_a_flood_does_not_keep_echion_from_its_work(echion, fake):
    with echion.start([fake, "flood"], "-x", "0.2", "-s") as running:
        running.wait_ready()
        result = running.finish(timeout=60)
    assert result.returncode == 0
    check_profile(result.output.read_text())


def test_who_is_gone_when_echion_looks_is_turned_away(echion, fake):
    result = echion.run([fake, "connect-of-the-dead"], "-s")
    assert result.stdout == "turned away\n"
    assert "before its first sample" in result.stderr and result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (("arm-twice",), "does not belong"),
        (("arm-early",), "does not belong"),
        (("arm-by-child",), "another process uses its channel"),
        (("arm-signal", str(signal.SIGKILL)), "not valid"),
        (("arm-signal", str(signal.SIGRTMIN + 1)), "not valid"),
        (("arm-thread", "1"), "not a thread of the target"),
        (("arm-thread", str(2**31 - 1)), "not a thread of the target"),
    ],
    ids=lambda part: "-".join(part) if isinstance(part, tuple) else None,
)
def test_a_request_for_ticks_that_breaks_a_rule_ends_the_session(
    echion, fake, build_dir, behaviour, words
):
    """Nobody but a thread of the agent's own process is signalled."""
    if reason := why_not("bpf", build_dir / "echion"):
        pytest.skip(reason)
    result = echion.run([fake, *behaviour], "-s", "--engine", "bpf")
    assert words in result.stderr and result.stderr.count("\n") == 1
    assert "answered" not in result.stdout or behaviour == ("arm-twice",)


def test_a_process_that_ends_while_it_asks_for_ticks_leaves_an_empty_profile(
    echion, fake, build_dir
):
    """Its threads have left the kernel's table by then, which is no fault of its agent."""
    if reason := why_not("bpf", build_dir / "echion"):
        pytest.skip(reason)
    result = echion.run([fake, "arm-and-end"], "-s").check()
    assert "Python ended before its first sample" in result.stderr
    assert result.stderr.count("\n") == 1
    assert check_profile(result.output.read_text()).metadata["duration"] == "0"


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGRTMIN + 1])
def test_perf_events_send_no_other_signal(echion, fake, build_dir, signal_number):
    if reason := why_not("perf", build_dir / "echion"):
        pytest.skip(reason)
    options = ("-s", "-c", "--engine", "perf")
    result = echion.run([fake, "arm-signal", str(signal_number)], *options)
    assert "not valid" in result.stderr and result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_flood_of_requests_ends_with_the_first(echion, fake, cpu_engine):
    result = echion.run([fake, "arm-flood", "20000"], "-s", "-c", "--engine", cpu_engine)
    assert result.stderr.count("\n") == 1


def test_complaints_come_to_an_end(echion, fake):
    result = echion.run([fake, "connect-often", "1000"], "-s")
    assert result.stderr.count("\n") == 101
    assert "no more of these" in result.stderr.splitlines()[-1]


def test_who_does_not_say_hello_is_hung_up_on_in_the_end(echion, fake):
    script = f'"{fake}" silent; "{fake}" exit 0'
    result = echion.run(["sh", "-c", script], "-s").check()
    assert len(check_profile(result.output.read_text()).samples) == 2
    assert "has not said" in result.stderr and result.stderr.count("\n") == 1


def test_an_agent_that_is_outlived_by_its_channel_gives_way_to_the_next(
    echion, any_python, cpu_engine
):
    """A child that the C library knows nothing of keeps it open when its parent executes another
    Python; its end does not end what came after."""
    options = ("-c", "-i", "1000", "--engine", cpu_engine)
    result = echion.run_target(any_python, "lingering", "0.3", options=options).check()
    late = sum(sample.metric for sample in result.profile.samples if "late" in sample.names)
    assert late >= 0.8 * 300_000, result.stderr
