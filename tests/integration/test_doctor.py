"""`echion --doctor`, run under rights that differ: it prints, ends with 0, and judges rightly."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from conftest import NOBODY, PYTHON
from runner import Echion, TARGETS, why_not

IN_USER_NAMESPACE = [sys.executable, str(TARGETS / "in_user_namespace.py")]
WITHOUT_BPF_IN_REACH = ["setpriv", "--bounding-set=-bpf", "--inh-caps=-bpf"]


def examine(echion: Echion, wrap: list[str]) -> dict[str, tuple[str, str]]:
    """What it says of each thing: a verdict, and the whole entry."""
    probe = subprocess.run([*wrap, "true"], capture_output=True, text=True, timeout=60)
    if probe.returncode:
        pytest.skip(f"not possible here: {probe.stderr.strip()}")
    command = [*wrap, str(echion.program), "--doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    findings: dict[str, tuple[str, str]] = {}
    name = ""
    for line in done.stdout.partition("\n\n")[2].splitlines():
        if line.startswith(" "):
            findings[name] = findings[name][0], findings[name][1] + "\n" + line
        else:
            name, rest = line[:32].strip(), line[33:]
            findings[name] = rest.split()[0], line
    assert findings["launch (echion COMMAND)"][0] == "yes"
    return findings


def test_what_it_calls_possible_is_possible(nobodys: Echion) -> None:
    for wrap in ([], NOBODY):
        verdict, text = examine(nobodys, wrap)["BPF programs"]
        result = nobodys.run([PYTHON, "-c", "pass"], "-c", "--engine", "bpf", wrap=wrap)
        assert (verdict == "yes") == (result.returncode == 0), (text, result.stderr)


def test_an_ordinary_user_is_told_of_setcap(nobodys: Echion) -> None:
    findings = examine(nobodys, NOBODY)
    verdict, text = findings["BPF programs"]
    assert verdict == "no" and "needs CAP_BPF and CAP_PERFMON" in text
    # Idle threads are left alone by every engine.
    assert "without it: -c reads the CPU clock of each thread" in text and "idle" not in text
    assert f"setcap cap_bpf,cap_perfmon=ep {nobodys.program}" in text and "chgrp" in text
    verdict, text = findings["attach, other users' processes"]
    assert verdict == "no" and "cap_sys_ptrace" in text and "trace every process" in text


def test_the_advice_helps(nobodys: Echion, build_dir: pathlib.Path) -> None:
    if reason := why_not("bpf", build_dir / "echion"):
        pytest.skip(reason)
    text = examine(nobodys, NOBODY)["BPF programs"][1]
    advice = text[text.index("sudo chgrp") :].replace("sudo ", "").replace("GROUP", "65534")
    subprocess.run(["sh", "-ec", advice], check=True)
    assert examine(nobodys, NOBODY)["BPF programs"][0] == "yes"
    result = nobodys.run([PYTHON, "-c", "pass"], "-c", "--engine", "bpf", wrap=NOBODY)
    result.check()
    others = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    # By a shell: setpriv itself may still run everything.
    command = [*others, "sh", "-c", f"exec {nobodys.program} -V"]
    assert subprocess.run(command, capture_output=True).returncode == 126


def test_where_files_cannot_give_rights_setcap_is_not_advised(nobodys: Echion) -> None:
    no_gain = [*NOBODY, "--no-new-privs"]
    for name, (verdict, text) in examine(nobodys, no_gain).items():
        assert "setcap" not in text, name
    assert "no_new_privs" in examine(nobodys, no_gain)["BPF programs"][1]
    # A capability that is out of reach is only had from outside.
    for wrap in (WITHOUT_BPF_IN_REACH, [*WITHOUT_BPF_IN_REACH, *NOBODY]):
        verdict, text = examine(nobodys, wrap)["BPF programs"]
        if wrap == WITHOUT_BPF_IN_REACH and verdict == "yes":
            continue  # root still has CAP_SYS_ADMIN
        assert verdict == "no" and "bounding set" in text
        assert "--cap-add BPF" in text and "setcap" not in text


def test_root_of_a_user_namespace_is_sent_outside(nobodys: Echion) -> None:
    findings = examine(nobodys, IN_USER_NAMESPACE)
    verdict, text = findings["BPF programs"]
    assert verdict == "no" and "user namespace" in text and "outside" in text
    verdict, text = findings["attach, other users' processes"]
    assert verdict == "limited" and "user namespace" in text
    assert all("setcap" not in text for _, text in findings.values())
