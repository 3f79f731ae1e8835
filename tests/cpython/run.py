"""CPython's regression tests, plain and under echion, test by test. See scripts/cpython-tests."""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))

from interpreters import find_interpreters  # noqa: E402
from outcome import ENDED, SKIPPED, Outcome, run_file  # noqa: E402

FILES = (
    "test_threading test_thread test_signal test_threadsignals test_subprocess test_fork1 test_posix"
    " test_os test_socket test_selectors test_asyncio test_multiprocessing_fork"
    " test_multiprocessing_spawn test_multiprocessing_main_handling"
).split()
WAYS = {
    "launch": ["-i", "1000"],
    "cpu": ["-c"],
    "clock": ["--engine", "clock"],
    "attach": None,  # not launched by echion
}
# A test may fail by chance, plain as well.
PLAIN_RUNS = 2
AGAIN = 3


class Comparison:
    """One interpreter's runs of one file."""

    def __init__(self, options: argparse.Namespace, python: str, file: str):
        self._options = options
        self._python = python
        self._file = file
        self._logs = options.folder / pathlib.Path(python).parents[1].name
        self._logs.mkdir(parents=True, exist_ok=True)
        self._runs = 0
        self.plain = [self._run(None) for _ in range(PLAIN_RUNS)]

    def _run(self, way: str | None, only: list[str] | None = None) -> Outcome:
        self._runs += 1
        log = self._logs / f"{self._file}-{self._runs}-{way or 'plain'}.log"
        echion = self._options.echion
        wrap, attach = None, None
        if way and WAYS[way] is None:
            attach = echion
        elif way:
            profile = log.with_suffix(".austin")
            wrap = [str(echion), "-o", str(profile), *WAYS[way]]
        try:
            return run_file(
                self._python, self._file, log, self._options.limit, wrap, attach, only
            )
        finally:
            log.with_suffix(".austin").unlink(missing_ok=True)

    def bad_plain(self) -> set[str]:
        return set().union(*(one.bad() for one in self.plain))

    def run_way(self, way: str) -> tuple[Outcome, list[str]]:
        """The run, and lines about what differs from the plain ones."""
        outcome = self._run(way)
        return outcome, [*self._describe_failures(way, outcome), *self._describe_absent(outcome)]

    def _describe_failures(self, way: str, outcome: Outcome) -> list[str]:
        lines = []
        for test in sorted(outcome.bad() - self.bad_plain()):
            reason = outcome.reasons.get(test, "")
            if test.startswith(ENDED):
                lines.append(f"{test}: {reason}")
                continue
            # Alone, as often plain: by chance, or by echion?
            times = {None: 0, way: 0}
            for kind in times:
                times[kind] = sum(
                    bool(self._run(kind, only=[test.split(" ")[0]]).bad()) for _ in range(AGAIN)
                )
            lines.append(
                f"{test}: {reason}  [alone it fails {times[way]} of {AGAIN} times,"
                f" plain {times[None]} of {AGAIN}]"
            )
        return lines

    def _describe_absent(self, outcome: Outcome) -> list[str]:
        if ENDED in outcome.results:
            return []  # said already, and of no use
        lines = []
        for test in sorted(set.intersection(*(set(one.results) for one in self.plain))):
            was = {one.results[test] for one in self.plain}
            now = outcome.results.get(test)
            if test.startswith(ENDED):
                continue
            if now is None:
                lines.append(f"{test}: has not run")
            elif now == SKIPPED and SKIPPED not in was:
                lines.append(f"{test}: skipped: {outcome.reasons.get(test, '')}")
        return lines


def choose_pythons(given: list[str] | None) -> list[str]:
    if given:
        return given
    found = [one.path for one in find_interpreters() if has_file(one.path, "test_threading")]
    if not found:
        sys.exit("cpython-tests: no interpreter here has its `test` package")
    return list(dict.fromkeys((found[0], found[-1])))


def has_file(python: str, file: str) -> bool:
    query = f"import importlib.util as u; raise SystemExit(not u.find_spec('test.{file}'))"
    return subprocess.run([python, "-I", "-c", query], capture_output=True).returncode == 0


def tell_attachments(outcome: Outcome) -> str:
    return "; ".join(f"{count} × {what}" for what, count in sorted(outcome.attachments.items()))


def compare(options: argparse.Namespace, python: str, file: str) -> bool:
    """Prints a line of the table, and what differs; false if anything does."""
    if not has_file(python, file):
        print(f"{file:<36} not in this version", flush=True)
        return True
    comparison = Comparison(options, python, file)
    plain = comparison.plain[-1]
    skipped = sum(result == SKIPPED for result in plain.results.values())
    cells, lines = [], []
    for way in options.ways:
        outcome, differences = comparison.run_way(way)
        cells.append(f"{len(differences):>7}")
        lines += [f"    {way}: {line}" for line in differences]
        if outcome.attachments:
            lines.append(f"    {way}: {tell_attachments(outcome)}")
    for test in sorted(comparison.bad_plain()):
        lines.append(f"    plain: {test}: {comparison.plain[0].reasons.get(test, 'by chance')}")
    figures = f"{len(plain.results):>6} {skipped:>8} {len(comparison.bad_plain()):>7}"
    print(f"{file:<36} {figures} {' '.join(cells)}", *lines, sep="\n", flush=True)
    return all(cell.strip() == "0" for cell in cells)


def main() -> int:
    build = pathlib.Path(os.environ["ECHION_BUILD"])
    parser = argparse.ArgumentParser(prog="scripts/cpython-tests")
    parser.add_argument("--python", action="append")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--limit", type=float, default=1200)
    parser.add_argument("files", nargs="*", metavar="test_…")
    options = parser.parse_args()
    options.ways = options.ways.split(",")
    if unknown := set(options.ways) - set(WAYS):
        parser.error(f"no such way: {', '.join(unknown)} (there are {', '.join(WAYS)})")
    # A shell starts what it puts into the background with SIGINT ignored, and that is inherited.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    options.echion = build / "echion"
    options.folder = build / "cpython-tests"
    is_same = True
    for python in choose_pythons(options.python):
        version = subprocess.check_output([python, "-V"], text=True).strip()
        print(f"\n{version} ({python}); under echion: results that differ from the plain ones")
        ways = " ".join(f"{way:>7}" for way in options.ways)
        print(f"{'':<36} {'tests':>6} {'skipped':>8} {'bad':>7} {ways}", flush=True)
        for file in options.files or FILES:
            is_same &= compare(options, python, file)
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
