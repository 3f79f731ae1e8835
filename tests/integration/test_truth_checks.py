"""The checks of scripts/truth: what they must let through, and what they must catch."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest

from conftest import ROOT
from possible import Grammar
from profile_text import Profile
from runner import TARGETS
from task_stacks import find_fault

sys.path.insert(0, str(ROOT / "tests/truth"))

import others  # noqa: E402
import programs  # noqa: E402
import table  # noqa: E402
from checks import Bounds, Judgement, judge  # noqa: E402
from truth import Life, Piece, Span, Truth, Wait  # noqa: E402

TICK_US = 1000
GRAMMAR = Grammar(
    {
        "file": "/t/app.py",
        "lines": {"<module>": [90], "main": [80, 81], "a": [1, 2], "b": [5], "work": [70]},
        "calls": {90: ["main"], 81: ["a", "b", "*.html"]},
        "entries": ["work"],
    }
)
MAIN = "MainThread;app.py:<module>:90;app.py:main:81"
THREAD = "_;l.py:_bootstrap:1;l.py:_bootstrap_inner:2;l.py:run:3;app.py:work:70"
START = "MainThread;site.py:load:3"


def judged(*lines: str, footer: str = "", measures_cpu: bool = False, **truth) -> Judgement:
    """`lines` are `THREAD;FRAMES… MILLISECONDS`, of interpreter 0 where they do not say `N:`."""
    text = []
    for line in lines:
        stack, _, milliseconds = line.rpartition(" ")
        iid = "" if stack[0].isdigit() else "0:"
        text.append(f"P1;T{iid}{stack} {int(float(milliseconds) * 1000)}")
    whole = "# mode: wall\n\n" + "\n".join(text) + "\n\n" + footer
    return judge(Profile.parse(whole), Truth(**truth), TICK_US, measures_cpu)


# --- impossible stacks -------------------------------------------------------------------------


def test_possible_stacks_are_let_through():
    found = judged(f"{START} 30", f"{MAIN} 5", f"{MAIN};app.py:a:1 10", f"{START} 9", grammar=GRAMMAR)
    assert (found.samples, found.impossible) == (54, 0)


def test_an_impossible_stack_counts_as_many_samples_as_its_time_has():
    found = judged(f"{MAIN} 90", f"{MAIN};app.py:work:70 10", grammar=GRAMMAR)
    assert (found.samples, found.impossible) == (100, 10)
    assert found.impossible_rate == 100000


def test_stacks_of_tasks_are_judged_by_what_can_wait_for_what():
    loop = "MainThread;app.py:run:1;base_events.py:_run_once:2;selectors.py:select:3"
    middle = ":middle/2:0;task_churn.py:middle:58"
    leaf = ":leaf/3:0;task_churn.py:leaf:47;tasks.py:sleep:9"
    inner = ":leaf/4:0;task_churn.py:leaf:47"
    busy = ":leaf/5:0;task_churn.py:leaf:45;task_churn.py:compute_leaf:9"
    can = [f"{loop};{middle};{leaf} 5", f"{loop};{leaf} 5", f"{loop} 7"]
    cannot = [f"{loop};{leaf};{inner} 2", f"{loop};{leaf};{middle} 1", f"{loop};{busy} 4"]
    assert judged(*can, fault=find_fault).impossible == 0
    assert judged(*can, *cannot, fault=find_fault).impossible == 7


@pytest.mark.parametrize("stray", [START, "MainThread", "MainThread;:GC:"])
def test_a_program_in_the_midst_of_its_work_is_in_its_functions(stray):
    found = judged(f"{MAIN} 5", f"{stray} 3", f"{MAIN} 5", grammar=GRAMMAR)
    assert found.impossible == 3


def test_a_program_that_was_attached_to_is_in_its_functions_from_the_first_sample():
    lines = [f"{START} 3", f"{MAIN} 5"]
    assert judged(*lines, grammar=GRAMMAR).impossible == 0
    assert judged(*lines, grammar=GRAMMAR, was_ready=True).impossible == 3
    begins = [line.replace("MainThread", "worker") for line in ("MainThread 3", *lines)]
    assert judged(*begins, grammar=GRAMMAR, was_ready=True).impossible == 0


def test_pieces_come_one_after_the_other():
    pieces = [Piece("p0.html", 0.01), Piece("p1.html", 0.01)]
    first, second = (f"{MAIN};p{number}.html:<module>:1" for number in (0, 1))
    assert judged(f"{first} 10", f"{second} 10", grammar=GRAMMAR, pieces=pieces).impossible == 0
    late = judged(f"{first} 10", f"{second} 9", f"{first} 1", grammar=GRAMMAR, pieces=pieces)
    assert late.impossible == 1


def test_a_piece_that_runs_nothing_is_a_leaf():
    pieces = [Piece("p0.html", 0.01, is_leaf=True)]
    found = judged(f"{MAIN};p0.html:<module>:1;x.py:f:2 10", grammar=GRAMMAR, pieces=pieces)
    assert found.impossible == 10


def test_functions_of_one_interpreter_are_not_seen_in_another():
    places = {"inside": 1}
    assert judged("1:x;<string>:inside:2 5", places=places).impossible == 0
    assert judged("x;<string>:inside:2 5", places=places).impossible == 5


# --- wrong leaves ------------------------------------------------------------------------------

WAITS = [Wait("MainThread", frozenset({("app.py", "a")}), 0.1)]


def test_a_wait_has_one_leaf():
    right, wrong = f"{MAIN};app.py:a:1", f"{MAIN};app.py:b:5"
    assert judged(f"{START} 40", f"{right} 100", waits=WAITS).wrong_leaves == 0
    assert judged(f"{START} 100", waits=WAITS).wrong_leaves == 100
    assert judged(f"{right} 40", f"{wrong} 60", waits=WAITS).wrong_leaves == 60


def test_marked_time_is_no_wrong_leaf():
    found = judged("MainThread;:INVALID: 100", waits=WAITS)
    assert (found.wrong_leaves, found.marked_percent) == (0, 100)


def test_what_a_program_does_beside_its_waits_is_none():
    waits = [Wait("MainThread", frozenset({("app.py", "a")}), 0.1, within="main")]
    assert judged(f"{START} 100", waits=waits).wrong_leaves == 0
    assert judged(f"{MAIN};x.html:<module>:1 100", waits=waits).wrong_leaves == 100


def test_a_program_without_a_cpu_stands_where_it_says_that_it_stood():
    """It measured how long it was not in its waits: a longer line is wrong all the same."""
    late = [dataclasses.replace(WAITS[0], beside_s=0.07)]
    wrong = f"{MAIN};app.py:b:5"
    assert judged(f"{wrong} 60", waits=late).wrong_leaves == 0
    assert judged(f"{wrong} 80", waits=late).wrong_leaves == 80


# --- times -------------------------------------------------------------------------------------

SPANS = [Span("a", 0.25, ("a",)), Span("b", 0.75, ("b",))]


def seen_shares(a: float, b: float) -> Judgement:
    return judged(f"{MAIN};app.py:a:1 {a}", f"{MAIN};app.py:b:5 {b}", spans=SPANS)


def test_shares_are_compared_in_points():
    assert seen_shares(250, 750).points == 0
    assert seen_shares(125, 375).points == 0  # that is missing time
    assert seen_shares(350, 650).points == pytest.approx(10, abs=0.3)


def test_shares_of_a_few_samples_are_not_compared():
    spans = [Span("a", 0.005, ("a",)), Span("b", 0.015, ("b",))]
    assert judged(f"{MAIN};app.py:a:1 20", spans=spans).points == 0


def test_functions_that_are_not_there_are_all_points_off():
    assert judged(f"{START} 1000", spans=SPANS).points == pytest.approx(100, abs=0.3)


def test_a_single_functions_time_is_compared_itself():
    spans = [Span("a", 0.1, ("a",))]
    assert judged(f"{MAIN};app.py:a:1 99", spans=spans).points == 0
    assert judged(f"{MAIN};app.py:a:1 48", f"{START} 52", spans=spans).points == pytest.approx(50)


def test_time_in_the_collector_is_told_from_the_rest_of_its_function():
    spans = [Span("a", 0.5, ("a",)), Span("collecting", 0.5, ("a",), collecting=True)]
    found = judged(f"{MAIN};app.py:a:1 500", f"{MAIN};app.py:a:1;:GC: 500", spans=spans)
    assert found.points == 0
    assert judged(f"{MAIN};app.py:a:1 1000", spans=spans).points == pytest.approx(50, abs=0.3)


def test_pieces_that_have_others_time_are_told():
    pieces = [Piece(f"p{number}.html", 0.05) for number in range(2)]
    lines = [f"{MAIN};p0.html:<module>:1 90", f"{MAIN};p1.html:<module>:1 10"]
    assert judged(*lines, pieces=pieces).points == pytest.approx(38)  # but for two intervals


LIVES = [Life("x", 0.1, 0.2, "work")]


@pytest.mark.parametrize("seen, percent", [(100, 0), (98, 0), (200, 0), (202, 0), (50, 48), (252, 50)])
def test_a_life_is_between_its_measures(seen, percent):
    found = judged(THREAD.replace("_", "x", 1) + f" {seen}", lives=LIVES)
    assert found.life_percent == pytest.approx(percent)


def test_missing_time_is_what_a_life_lacks():
    found = judged(THREAD.replace("_", "x", 1) + " 48", lives=LIVES)
    assert found.missing_percent == pytest.approx(50)


def test_marked_time_is_not_missing_but_told():
    work = THREAD.replace("_", "x", 1)
    for marker in (":INVALID:", ":INVALID:0", ":MISSED:0", ":<unknown>:0"):
        found = judged(f"{work} 50", f"x;{marker} 50", lives=LIVES)
        assert (found.missing_percent, found.marked_percent, found.impossible) == (0, 50, 0)
        assert Bounds().missed(found, is_quiet=True) == ["untold"]
        assert Bounds().missed(found, is_quiet=False) == []


# --- threads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [["x 100"], ["other;l.py:run:1 100"], ["thread-71;l.py:run:1 100"]])
def test_threads_without_stacks_or_names_are_lost(lines):
    assert judged(*lines, lives=LIVES).lost_threads >= 1


def test_time_under_no_name_is_not_missing_as_well():
    found = judged(THREAD.replace("_", "thread-71", 1) + " 100", lives=LIVES)
    assert (found.missing_percent, found.life_percent) == (0, 0)
    assert found.lost_threads == 1


def test_a_thread_with_its_name_and_stacks_is_not():
    assert judged(THREAD.replace("_", "x", 1) + " 100", lives=LIVES).lost_threads == 0


def test_a_thread_that_no_sampler_need_see_is_not_missed():
    assert judged(f"{MAIN} 100", lives=[Life("x", 0.005, 0.005, "work")]).lost_threads == 0


def test_one_threads_stacks_under_anothers_name():
    owners = {"work": "x"}
    assert judged(THREAD.replace("_", "x of 3", 1) + " 9", owners=owners).misnamed == 0
    assert judged(THREAD.replace("_", "y of 4", 1) + " 9", owners=owners).misnamed == 9


def test_the_samplers_own_time_is_not_looked_at():
    assert judged("echion.core.sampler 9", f"{MAIN} 1", grammar=GRAMMAR).samples == 1


def test_time_on_a_cpu_is_the_programs_without_the_samplers():
    footer = "# on_cpu: 500000 \n# sampler_cpu_ns: 200000000 \n"
    assert judged(f"{MAIN} 900", footer=footer, cpu_s=0.7).on_cpu == pytest.approx(1)
    assert judged(f"{MAIN} 900", footer=footer, cpu_s=1.2).on_cpu == pytest.approx(0.5)


def test_without_names_functions_tell_threads_apart():
    text = "\n".join(f"P1;T0:{name};l.py:run:1;app.py:work:70 100000" for name in ("2d4d", "2d5c"))
    profile = Profile.parse(text)
    profile.names_threads = False
    lives = [Life("x", 0.1, 0.1, "work"), Life("y", 0.1, 0.1, "work")]
    found = judge(profile, Truth(lives=lives, owners={"work": "x"}), TICK_US, False)
    assert (found.life_percent, found.lost_threads, found.misnamed) == (0, 0, 0)


# --- rows --------------------------------------------------------------------------------------


def test_runs_are_added_up_and_the_worst_share_is_kept():
    whole = Judgement()
    whole.add(judged(f"{MAIN} 90", f"{MAIN};app.py:work:70 10", grammar=GRAMMAR))
    whole.add(seen_shares(350, 650))
    whole.add(seen_shares(250, 750))
    assert (whole.runs, whole.samples, whole.impossible) == (3, 2100, 10)
    assert whole.points == pytest.approx(10, abs=0.3)


def test_a_profile_without_samples_is_an_error():
    assert Bounds().missed(judged("echion.core.sampler 9"), is_quiet=False) == ["run"]


@pytest.mark.parametrize(
    "figures, is_silent",
    [
        ("# torn_marked: 0 \n# invalid: 0 \n# unproved: 0 \n", True),
        ("# torn_marked: 1 \n# invalid: 0 \n# unproved: 0 \n", False),
    ],
)
def test_wrong_profiles_that_tell_nothing_are_counted(figures, is_silent):
    found = judged(f"{MAIN};app.py:work:70 10", grammar=GRAMMAR, footer=figures)
    assert table.is_silently_wrong(found) == is_silent


def test_the_table_and_the_file_tell_the_same():
    row = table.Row("p", "3.8.18", "launched", "bpf", "quiet", seen_shares(350, 650))
    bounds = Bounds()
    assert table.render([row], bounds).splitlines()[1].endswith("points")
    facts = json.loads(json.dumps(table.as_json(row, bounds)))
    assert (facts["program"], facts["missed"]) == ("p", ["points"])


# --- the programs and the command line ---------------------------------------------------------

ARGUMENTS = {
    "shares": ["0.05"],
    "sleeping": ["0.05"],
    "generated": ["2", "0.02"],
    "templates": ["0.05"],
    "pair": ["0.02"],
    "lives": ["0.1"],
    "forked": ["native", "child", "0.05"],
    "collecting": ["0.2"],
    "interpreted": ["0.1"],
}


@pytest.mark.parametrize("target", ARGUMENTS)
def test_the_programs_own_marks_are_complete(python, target):
    command = [python.path, TARGETS / "_marks.py", "--check", TARGETS / f"{target}.py"]
    command += ARGUMENTS[target]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert json.loads(told.splitlines()[-1]) == {"unmarked": []}


def test_every_programs_marks_are_checked():
    targets = {one.target for one in programs.ALL if one.target and one.has_marks}
    assert targets == {*ARGUMENTS, "known_stacks"}


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--program", "nosuch"], "no such program: nosuch"),
        (["--python", "2.6"], "no CPython 2.6 found"),
        (["--engines", "steam"], "no such engine: steam"),
        (["--other", "x=run {python}"], "the command needs {script} and {output}"),
    ],
)
def test_a_command_line_that_makes_no_sense(words, complaint):
    command = [sys.executable, ROOT / "tests/truth/run.py", *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert complaint in run.stderr


def test_a_template_is_filled_in_word_by_word():
    profiler = others.parse_template("p='my profiler' {python} {script} {args} -o {output}")
    command = profiler.command("/py thon", "a b.py", ["1", "2 3"], "/o")
    assert command == ["my profiler", "/py thon", "a b.py", "1", "2 3", "-o", "/o"]
