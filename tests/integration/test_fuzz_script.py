"""scripts/fuzz builds what it is asked for, and says so; CMake and the harnesses are played here."""

from __future__ import annotations

import os
import subprocess

import pytest

from conftest import ROOT

FAKES = {
    "cmake": '#!/bin/sh\n[ "$1" = --build ] && echo "$@" >>"$FAKE_LOG"\nexit 0\n',
    "dpkg-query": "#!/bin/sh\nprintf installed\n",
}
HARNESS = "#!/bin/sh\necho '#7 DONE cov: 3 ft: 4 corp: 5/6b' >&2\n"
HARNESSES = sorted(path.stem for path in (ROOT / "tests/fuzz").glob("*_fuzz.cpp"))


@pytest.fixture
def fuzz(tmp_path):
    """Runs the script; what it says, and the targets that it has built."""
    tools, build, log = tmp_path / "tools", tmp_path / "build", tmp_path / "log"
    for folder in (tools, build / "tests/fuzz"):
        folder.mkdir(parents=True)
    scripts = {tools / name: text for name, text in FAKES.items()}
    scripts |= {build / "tests/fuzz" / name: HARNESS for name in HARNESSES}
    for path, text in scripts.items():
        path.write_text(text)
        path.chmod(0o755)
    log.touch()
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "FAKE_LOG": str(log)}
    environment["BUILD_DIR"] = str(build)

    def run(*arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        done = subprocess.run(
            [ROOT / "scripts/fuzz", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done, log.read_text().partition("--target")[2].split()

    return run


def test_builds_the_harnesses_that_are_asked_for(fuzz):
    done, targets = fuzz("0.01", "ring_fuzz", "elf_fuzz")
    assert done.returncode == 0, done.stderr
    assert targets == ["ring_fuzz", "elf_fuzz"]
    said = done.stdout.splitlines()
    assert "building ring_fuzz elf_fuzz in " in said[0]
    assert [line.split()[0] for line in said[1:]] == ["harness", "ring_fuzz", "elf_fuzz"]


def test_builds_all_when_none_is_named(fuzz):
    done, targets = fuzz("0.01")
    assert done.returncode == 0, done.stderr
    assert targets == ["echion_fuzz"]
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == HARNESSES


def test_builds_nothing_for_a_harness_that_there_is_not(fuzz):
    done, targets = fuzz("0.01", "ring_fuzz", "no_such_fuzz")
    assert (done.returncode, done.stdout, targets) == (2, "", [])
    assert "no harness no_such_fuzz" in done.stderr
