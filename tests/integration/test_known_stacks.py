"""No stack that cannot exist, and no bias against code that is hard to copy while it runs."""

import statistics

import pytest

from conftest import LONG
from possible import Grammar, judge
from profile_text import Sample, parse_sample
from runner import Result, TARGETS, run_unsampled

FREE_THREADED = "all"  # see conftest.py
# Of all samples: the kernel copies a stack while its thread stands still, the sampler beside it.
IMPOSSIBLE = {"bpf": 0.0, "clock": 1e-5}
# A short run is too short to tell one in 100,000 from none. Far below what reading without any proof
# gives (some hundred).
FEW = 2
MARKED = 0.02
POINTS = 0.03
THREADS = 3


@pytest.fixture(scope="module")
def runs():
    return {}


@pytest.fixture
def sample_known_stacks(runs, echion, engine, python, long_form):
    """Runs the target with so many threads: once for each interpreter and engine."""

    def sample_with(threads: int) -> Result:
        key = (python, engine, threads)
        if key not in runs:
            seconds = "20" if long_form else "3"
            options = ["-i", "50", "--engine", engine]
            runs[key] = echion.run_target(
                python, "known_stacks", seconds, str(threads), options=options
            ).check()
        return runs[key]

    return sample_with


def assert_only_possible(result: Result, engine: str) -> None:
    verdict = judge(result.profile, result.report["possible"])
    print(verdict)
    assert verdict.lines > 100
    allowed = IMPOSSIBLE[engine] * verdict.samples if LONG else FEW
    assert verdict.impossible <= allowed, verdict
    assert verdict.marked_samples <= MARKED * verdict.samples, verdict
    assert verdict.marked_time <= MARKED, verdict


def test_the_targets_own_marks_are_complete(python, tmp_path):
    assert run_unsampled(python, "known_stacks", "--check-marks", folder=tmp_path) == {
        "unmarked": []
    }


def test_one_thread_has_only_possible_stacks(sample_known_stacks, engine):
    assert_only_possible(sample_known_stacks(0), engine)


def test_threads_that_pass_the_lock_around_have_only_possible_stacks(sample_known_stacks, engine):
    assert_only_possible(sample_known_stacks(THREADS), engine)


def test_shares_are_those_that_the_run_measured_itself(sample_known_stacks):
    result = sample_known_stacks(0)
    visits = result.report["visits"]
    seen = {name: result.profile.total_with("rounds_alone", name) for name in visits}
    assert_shares_agree(seen, {name: sum(times) for name, times in visits.items()})


@pytest.mark.skipif(
    not LONG, reason="two runs on a machine that may be busy with other work: ECHION_TEST_LONG=1"
)
def test_shares_are_those_of_a_run_without_the_sampler(sample_known_stacks, python, tmp_path):
    """Compares quick visits: what else the machine did meanwhile then counts in neither run."""
    result = sample_known_stacks(0)
    unsampled = run_unsampled(python, "known_stacks", "2", folder=tmp_path)["visits"]
    seen = {name: quick_visit(times) for name, times in seen_visits(result).items()}
    assert_shares_agree(seen, {name: quick_visit(times) for name, times in unsampled.items()})


def quick_visit(times: list[float]) -> float:
    """The first quartile."""
    return statistics.quantiles(times, n=4)[0]


def seen_visits(result: Result) -> dict[str, list[int]]:
    """The visits of each section as the profile tells them: samples that follow each other."""
    visits: dict[str, list[int]] = {name: [] for name in result.report["visits"]}
    last = None
    for sample in result.profile.of_thread("MainThread"):
        if sample.is_marked:
            if last:
                visits[last][-1] += sample.metric
            continue
        section = next((name for name in sample.names if name in visits), None)
        if section and section == last:
            visits[section][-1] += sample.metric
        elif section:
            visits[section].append(sample.metric)
        last = section
    return visits


def assert_shares_agree(seen: dict[str, float], expected: dict[str, float]) -> None:
    in_all, whole = sum(seen.values()), sum(expected.values())
    apart = {name: seen[name] / in_all - expected[name] / whole for name in expected}
    print({name: f"{difference:+.2%}" for name, difference in apart.items()})
    assert all(abs(difference) < POINTS for difference in apart.values()), apart


# The checker itself: what it must let through, and what it must catch.

DESCRIBED = {
    "file": "/t/known_stacks.py",
    "lines": {"<module>": [90], "main": [80, 81], "a": [1, 2], "b": [5, 6], "worker": [70]},
    "calls": {90: ["main"], 81: ["a", "others"], 2: ["b", "*.html"], 70: ["a"]},
    "entries": ["worker"],
}
GRAMMAR = Grammar(DESCRIBED)
ROOT = "P1;T0:MainThread;/t/known_stacks.py:<module>:90;/t/known_stacks.py:main:81"
THREAD = "P1;T0:worker;/l/threading.py:_bootstrap:1;/l/threading.py:_bootstrap_inner:2"


def sample(text: str) -> Sample:
    return parse_sample(text.replace("KS", "/t/known_stacks.py") + " 50")


@pytest.mark.parametrize(
    "stack",
    [
        ROOT,
        ROOT + ";KS:a:2;KS:b:6",
        ROOT + ";KS:a:1;:GC:0",
        ROOT + ";/l/threading.py:start:4",
        ROOT + ";KS:a:2;page.html:<module>:1",
        THREAD + ";/l/threading.py:run:3;KS:worker:70;KS:a:2",
        "P1;T0:MainThread;/l/site.py:main:3",
        "P1;T0:worker",
    ],
)
def test_the_checker_lets_possible_stacks_through(stack):
    assert GRAMMAR.fault(sample(stack)) is None


@pytest.mark.parametrize(
    "stack",
    [
        ROOT + ";KS:b:6",  # not called there
        ROOT + ";KS:a:6",  # another function's line
        ROOT + ";KS:a:1;KS:b:5",  # called from another line
        ROOT + ";KS:worker:70",  # another thread's function
        "P1;T0:MainThread;KS:a:2;KS:b:5",  # the root is missing
        "P1;T0:MainThread;KS:<module>:90;KS:a:2",  # a frame is missing
        THREAD + ";KS:worker:70",  # a frame is missing above
        ROOT + ";KS:a:2;<string>:<module>:1",  # another file than that line may run
        ROOT + ";/l/threading.py:start:4;KS:a:2",  # not called by others
        ROOT + ";KS:c:2",  # no such function
    ],
)
def test_the_checker_catches_impossible_stacks(stack):
    assert GRAMMAR.fault(sample(stack)) is not None


def test_a_program_that_others_run_begins_below_them():
    wrapped = sample("P1;T0:x;/l/runpy.py:run_path:1;KS:<module>:90;KS:main:81")
    assert GRAMMAR.fault(wrapped) is not None
    assert Grammar(DESCRIBED, is_wrapped=True).fault(wrapped) is None


def test_the_target_says_which_stacks_can_exist(python, tmp_path):
    described = run_unsampled(python, "known_stacks", "0.1", "2", folder=tmp_path)["possible"]
    grammar = Grammar(described)
    source = (TARGETS / "known_stacks.py").read_text().splitlines()
    line = 1 + source.index("    if depth == 0:")
    assert line in grammar._lines["descend"]
    assert grammar._calls[line + 1] == {"alpha_leaf"}
