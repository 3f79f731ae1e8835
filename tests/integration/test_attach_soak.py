"""Many attachments to one busy process: allocating, importing, starting threads and processes all
the time, with a signal a hundred times a second. `ECHION_SOAK_CYCLES` says how many for each
interpreter; scripts/soak-attach asks for 300. Prints what they cost the target.

A program that imports all the time grows by itself, by some megabytes: whether Echion leaves memory
behind is measured on one that is as busy, but does not; and by the names of what is mapped. Left
alone, that one's mapped memory stays the same to the byte, as it has taken at its start all the
arenas and thread stacks that it will ever need. (Without that, one arena of CPython's, 1024 KiB from
3.10 on, came or went within seconds, attached or not.)
"""

from __future__ import annotations

import os
import pathlib
import random
import re
import statistics
import subprocess
import time

import pytest

import whereabouts
from attach_support import start_target, target_command
from runner import TIMEOUT_S

pytestmark = pytest.mark.usefixtures("needs_root")

CYCLES = int(os.environ.get("ECHION_SOAK_CYCLES", "10"))
MAX_GROWTH_BYTES = 1 << 20
THREADS_SHOWN = 10
STOPPED = re.compile(r"was stopped for ([\d.]+) ms")
ATTACHED = re.compile(r"attached in ([\d.]+) ms")
FIRST_SAMPLE = re.compile(r"first sample after ([\d.]+) ms")
PROBES = re.compile(r"(\d+) stops before that found no safe point, the longest ([\d.]+) ms")


def agent_threads(target):
    found = 0
    for tid in target.threads():
        try:
            comm = pathlib.Path(f"/proc/{target.pid}/task/{tid}/comm").read_text()
        except OSError:
            continue
        found += comm == "echion\n"
    return found


def wait_until_left(target):
    deadline = time.monotonic() + TIMEOUT_S
    while agent_threads(target):
        assert time.monotonic() < deadline, "an agent's thread is left in the target"
        time.sleep(0.01)


def steady_descriptors(target):
    """Descriptors that stay: those of pipes to processes come and go."""
    return {
        link
        for link in target.descriptors().values()
        if link.startswith(("socket:", "/memfd:", "anon_inode:"))
    }


def ours_mapped(target):
    """What is mapped that has a name of Echion's, or is the kernel's for it."""
    words = ("echion", "anon_inode:", "[perf_event]")
    lines = pathlib.Path(f"/proc/{target.pid}/maps").read_text().splitlines()
    return sorted(line.split(None, 5)[5] for line in lines if any(word in line for word in words))


def least_mapped_bytes(target, looks=50):
    """The program's own threads come and go: without those."""
    least = target.mapped_bytes()
    for _ in range(looks):
        time.sleep(0.01)
        least = min(least, target.mapped_bytes())
    return least


@pytest.fixture
def tell(python, capsys):
    """Prints a line of figures, past pytest; scripts/test shows the lines that begin so."""

    def print_figures(text):
        with capsys.disabled():
            print(f"\nfigures: {python.name}: {text}")

    return print_figures


def describe(name, values):
    return f"{name}: median {statistics.median(values):.2f}, maximum {max(values):.2f} ms"


def test_cycles_of_attaching_and_leaving(echion, python, tmp_path, tell):
    pauses, probes, attached, first = [], [], [], []
    with start_target(tmp_path, target_command(python, "production")) as service:
        attach = ["-p", str(service.pid)]
        echion.run(attach, "-x", "0.02").check()  # the library comes to stay
        wait_until_left(service)
        descriptors, mapped = steady_descriptors(service), ours_mapped(service)
        for _ in range(CYCLES):
            result = echion.run(attach, "-v", "-x", "0.02", timeout=60).check()
            pauses.append(float(STOPPED.search(result.stderr).group(1)))
            attached.append(float(ATTACHED.search(result.stderr).group(1)))
            first.append(float(FIRST_SAMPLE.search(result.stderr).group(1)))
            if found := PROBES.search(result.stderr):
                probes.append(float(found.group(2)))
            result.output.unlink()
        wait_until_left(service)
        assert steady_descriptors(service) == descriptors
        assert ours_mapped(service) == mapped
        report = service.finish()
    tell(
        f"{CYCLES} cycles; {describe('pause', pauses)}; {describe('attached', attached)}; "
        f"{describe('first sample', first)}; {len(probes)} with stops that found no safe point"
        + (f" (longest {max(probes):.2f} ms)" if probes else "")
        + f"; {sum(report['rounds'].values())} rounds of work"
    )
    assert report["faults"] == []


def test_cycles_of_being_killed(echion, python, tmp_path, tell):
    """The program dies by SIGKILL at any moment of attaching, sampling and leaving."""
    chance = random.Random(sum(python.version))
    with start_target(tmp_path, target_command(python, "production")) as service:
        attach = ["-p", str(service.pid)]
        for _ in range(CYCLES):
            engine, longest_s = chance.choice((("clock", 0.06), ("auto", 0.12)))
            with echion.start(attach, "-x", "0.02", "--engine", engine) as running:
                try:
                    running.process.wait(chance.uniform(0, longest_s))
                except subprocess.TimeoutExpired:
                    pass
                running.kill()
                running.process.wait()
            assert service.is_alive(), "the target has died"
        wait_until_left(service)
        assert not steady_descriptors(service)
        result = echion.run(attach, "-x", "0.1").check()
        report = service.finish()
    tell(f"killed {CYCLES} times; {sum(report['rounds'].values())} rounds of work")
    assert report["faults"] == []
    assert result.profile.samples


STEADY = [("production", "steady"), ("waits", "read_pipe")]


@pytest.mark.parametrize("scene", STEADY, ids=lambda scene: scene[0])
def test_mapped_memory_does_not_grow(echion, python, tmp_path, tell, scene):
    with start_target(tmp_path, target_command(python, *scene)) as service:
        attach = ["-p", str(service.pid)]
        echion.run(attach, "-x", "0.02").check()  # the library comes to stay
        wait_until_left(service)
        mapped = least_mapped_bytes(service)
        for _ in range(CYCLES):
            result = echion.run(attach, "-x", "0.02").check()
            result.output.unlink()
        wait_until_left(service)
        growth = least_mapped_bytes(service) - mapped
        service.finish()
    tell(f"{scene[0]}: {growth >> 10} KiB more mapped after {CYCLES} cycles")
    assert growth < MAX_GROWTH_BYTES, f"{growth} bytes more are mapped"


def test_cycles_of_where_mode(build_dir, python, tmp_path, tell):
    """The whole command on ten threads. How long it takes is told, and judged by who reads it."""
    took_ms = []
    with whereabouts.start_target(python, tmp_path, "many", str(THREADS_SHOWN)) as target:
        command = [str(build_dir / "echion"), "-w", str(target.wait_ready())]
        for _ in range(CYCLES):
            begin = time.perf_counter()
            shown = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
            took_ms.append((time.perf_counter() - begin) * 1000)
            assert shown.returncode == 0, shown.stderr
            assert len(whereabouts.parse_report(shown.stderr)) >= THREADS_SHOWN
    tell(f"{describe(f'-w on {THREADS_SHOWN} threads', took_ms)}")
