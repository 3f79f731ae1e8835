"""Each sample of wall time knows, with BPF, whether its thread was on a CPU."""

import pytest

from interpreters import Interpreter
from runner import Echion

OPTIONS = ["-i", "1000", "--engine", "bpf"]


@pytest.fixture(autouse=True)
def only_with_bpf(engine: str) -> None:
    if engine != "bpf":
        pytest.skip("only the kernel's programs tell")


def test_a_busy_program_is_on_a_cpu(echion: Echion, any_python: Interpreter) -> None:
    result = echion.run_target(any_python, "cpu_figures", "busy", "1.5", options=OPTIONS).check()
    # Where the machine is busy, ticks stay out, and rather while the program has its CPU.
    share = result.profile.figure("on_cpu") / result.report["process_us"]
    assert 0.4 <= share <= 1.2, share


def test_a_sleeping_program_is_not(echion: Echion, any_python: Interpreter) -> None:
    command = [any_python.path, "-c", "import time; time.sleep(1.5)"]
    profile = echion.run(command, *OPTIONS).check().profile
    on_cpu_us = int(profile.footer.get("on_cpu", "0"))
    assert on_cpu_us <= 0.1 * profile.figure("duration"), on_cpu_us
