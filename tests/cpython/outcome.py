"""One run of one of CPython's test files, and what came of each of its tests."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import threading
import xml.etree.ElementTree

PASSED, SKIPPED, FAILED, ERROR = "passed", "skipped", "failed", "error"
ENDED = "(the file as a whole)"  # stands for a run that did not come to its end, or for no test
# How regrtest ends: well, with failures, without a test that ran (Lib/test/libregrtest/main.py).
ORDERLY_ENDS = {0, 1, 2, 3, 4}
STARTED = re.compile(r"^(\w+) \(([\w.]+)\)", re.M)
# Waits for ever, plain as well, where the machine's hypervisor does not answer on VSOCK.
IGNORED = ("*ThreadedVSOCKSocketStreamTest*",)
# What an attachment may say at most of one kind: the text, without its numbers.
NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")
ATTACH_LIMIT_S = 60


@dataclasses.dataclass
class Outcome:
    """What came of one run."""

    results: dict[str, str] = dataclasses.field(default_factory=dict)  # test id → PASSED, …
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)  # of what did not pass
    attachments: dict[str, int] = dataclasses.field(default_factory=dict)

    def bad(self) -> set[str]:
        return {one for one, result in self.results.items() if result in (FAILED, ERROR)}

    def note(self, test: str, result: str, reason: str = "") -> None:
        # A test with several parts has one result for each: the worst counts.
        order = (PASSED, SKIPPED, FAILED, ERROR)
        if order.index(result) >= order.index(self.results.get(test, PASSED)):
            self.results[test] = result
            if reason:
                self.reasons[test] = reason


def _last_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[-1][:200] if lines else ""


def _parse(report: pathlib.Path, outcome: Outcome) -> None:
    """regrtest's --junit-xml: one <testcase> for each test, by its id."""
    root = xml.etree.ElementTree.parse(report).getroot()
    for case in root.iter("testcase"):
        name = case.get("name", "?")
        outcome.note(name, PASSED)
        for child in case:
            if child.tag in ("failure", "error"):
                result = FAILED if child.tag == "failure" else ERROR
                words = _last_line(child.text) or child.get("message", "")
                outcome.note(name, result, _last_line(words))
            elif child.tag == "skipped":
                outcome.note(name, SKIPPED, _last_line(child.text))


def _environment() -> dict[str, str]:
    """The shell's, without what would change how Python runs."""
    return {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}


def describe_threads(pid: int) -> str:
    """Where a process's threads are, for who looks into why it does not go on."""
    lines = []
    for task in sorted(pathlib.Path(f"/proc/{pid}/task").glob("*")):
        words = [task.name]
        with contextlib.suppress(OSError):
            status = (task / "status").read_text()
            words += re.findall(r"^(?:Name|State|TracerPid):\t.*", status, re.M)
            words.append("in call " + (task / "syscall").read_text().strip())
            words.append("waits in " + (task / "wchan").read_text().strip())
        lines.append("  " + ", ".join(words).replace("\t", " "))
    for file in sorted(pathlib.Path(f"/proc/{pid}/fd").glob("*")):
        with contextlib.suppress(OSError):
            lines.append(f"  descriptor {file.name}: {os.readlink(file)}")
    return "\n".join(lines)


def _attach_while_running(
    echion: pathlib.Path, target: subprocess.Popen[bytes], profile: pathlib.Path, outcome: Outcome
) -> str:
    """What there is to say of an attachment that did not come back; else nothing."""
    while target.poll() is None:
        command = [echion, "-v", "-o", profile, "-x", "0.1", "-p", str(target.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as attaching:
            try:
                _, said = attaching.communicate(timeout=ATTACH_LIMIT_S)
            except subprocess.TimeoutExpired:
                where = f"echion:\n{describe_threads(attaching.pid)}\n"
                where += f"the target:\n{describe_threads(target.pid)}\n"
                attaching.kill()
                _, said = attaching.communicate()
                outcome.note(f"{ENDED}: attaching", ERROR, f"echion took over {ATTACH_LIMIT_S} s")
                return f"{where}echion has said:\n{said}"
        what = "attached"
        if attaching.returncode != 0:
            lines = said.strip().splitlines()
            what = NUMBERS.sub("N", lines[-1] if lines else f"exit {attaching.returncode}")
        outcome.attachments[what] = outcome.attachments.get(what, 0) + 1
    return ""


def run_file(
    python: str,
    test: str,
    log: pathlib.Path,
    limit_s: float,
    wrap: list[str] | None = None,
    attach: pathlib.Path | None = None,
    only: list[str] | None = None,
) -> Outcome:
    """Runs `wrap… python -m test TEST`, and attaches `attach` (echion) to it all the while."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="echion-cpython-") as folder:
        report = pathlib.Path(folder) / "report.xml"
        command = [*(wrap or []), python, "-m", "test", "-v", "--junit-xml", str(report)]
        for one in only or []:
            command += ["-m", one]
        for one in IGNORED:
            command += ["-i", one]
        with open(log, "wb") as output:
            target = subprocess.Popen(
                [*command, test],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=_environment(),
                start_new_session=True,
            )
            try:
                with _time_limit(target, limit_s) as was_late:
                    if attach:
                        profile = pathlib.Path(folder) / "attached.austin"
                        fault = _attach_while_running(attach, target, profile, outcome)
                        if fault:
                            log.with_suffix(".fault").write_text(fault)
                    # Later than its own limit, it is killed.
                    target.wait(limit_s + 60)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(target.pid, signal.SIGKILL)
                target.wait()
        text = log.read_text(errors="replace")
        if report.exists():
            _parse(report, outcome)
    begun = STARTED.findall(text)
    last = f"; the last test to begin was {begun[-1][0]} ({begun[-1][1]})" if begun else ""
    if was_late:
        outcome.note(ENDED, ERROR, f"over the limit of {limit_s:.0f} s{last}")
    elif target.returncode not in ORDERLY_ENDS:
        outcome.note(ENDED, ERROR, f"ended with {target.returncode}{last}")
    elif not outcome.results and "skipped" not in text:
        outcome.note(ENDED, ERROR, f"no tests ran: {_last_line(text)}")
    elif "altered the execution environment" in text or "env changed" in text:
        outcome.note(f"{ENDED}: the environment", FAILED, "something was left changed")
    return outcome


@contextlib.contextmanager
def _time_limit(target: subprocess.Popen[bytes], limit_s: float):
    """Ends the target's session by then; the list that it gives is not empty if that was so."""
    was_late: list[bool] = []

    def end() -> None:
        was_late.append(True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(target.pid, signal.SIGKILL)

    timer = threading.Timer(limit_s, end)
    timer.start()
    try:
        yield was_late
    finally:
        timer.cancel()
        timer.join()
