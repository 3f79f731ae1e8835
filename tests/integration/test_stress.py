"""Many launches of a program that starts and ends threads all the time, forks, and ends in every
way. `ECHION_STRESS_LAUNCHES` says how many for each interpreter; scripts/stress asks for 200."""

import itertools
import os
import signal

from test_endings import WAYS

FREE_THREADED = True  # see conftest.py
LAUNCHES = int(os.environ.get("ECHION_STRESS_LAUNCHES", "8"))
SECONDS = 0.25
TIMEOUT_S = 60
# Each interpreter goes on where the one before it ended: few launches, too, cover them all together.
ways = itertools.cycle(WAYS)
INTERVALS = ("100", "1000", "50")
# Python/ceval_gil.h of 3.10, take_gil(): a daemon thread that wakes up when the main thread has ended
# looks at an interpreter that has been freed. By itself the program died of it in 11 of 1,380 runs on
# a busy machine: such a launch is printed, and made once more, and the second one counts.
DIES_BY_ITSELF = {((3, 10), "daemon_threads"): 128 + signal.SIGSEGV}


def launch(echion, python, way, interval):
    return echion.run_target(
        python, "restless", way, str(SECONDS), options=["-i", interval], timeout=TIMEOUT_S
    )


def test_no_launch_crashes_hangs_or_loses_its_profile(echion, python):
    wrong = []
    for number, way, interval in zip(range(LAUNCHES), ways, itertools.cycle(INTERVALS)):
        result = launch(echion, python, way, interval)
        if result.returncode == DIES_BY_ITSELF.get((python.minor, way)):
            print(f"figures: {python.name}: {way}, -i {interval}: died of SIGSEGV in CPython itself")
            result = launch(echion, python, way, interval)
        problem = None
        if result.returncode != WAYS[way]:
            problem = f"ended with {result.returncode} instead of {WAYS[way]}: {result.stderr[-300:]}"
        elif "duration" not in result.profile.footer:
            problem = "its profile has no end"
        elif not result.profile.total_with("restless", thread="MainThread"):
            shown = [
                (one.thread, one.metric) for one in result.profile.samples if one.has("restless")
            ]
            footer = result.profile.footer
            problem = f"its profile does not show its work: {len(shown)} stacks, {shown[:5]}, {footer}"
        if problem:
            wrong.append(f"launch {number}, {way}, -i {interval}: {problem}")
        for path in (result.output, result.report_path):
            path.unlink(missing_ok=True)
    assert not wrong, f"{len(wrong)} of {LAUNCHES} launches:\n" + "\n".join(wrong[:20])
