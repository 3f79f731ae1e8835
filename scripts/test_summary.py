#!/usr/bin/env python3
"""Adds up the JUnit files of one test run: what failed, what was skipped and why, how many passed.

Prints a closing line `N passed, N failed, N skipped` and exits 1 if anything failed or if a file
holds no test at all.
"""

from __future__ import annotations

import collections
import pathlib
import re
import sys
import xml.etree.ElementTree as xml

MAX_NAMES_PER_REASON = 4


def skip_reason(case: xml.Element, skipped: xml.Element | None) -> str:
    """The reason that the test gave: pytest's message, or what GTEST_SKIP printed."""
    output = case.findtext("system-out") or ""
    if match := re.search(r": Skipped\n(.*)", output):
        return match.group(1).strip()
    message = "" if skipped is None else skipped.get("message") or skipped.text or ""
    return message.strip() or "no reason given"


def main(paths: list[str]) -> int:
    passed = 0
    sys.stdout.reconfigure(errors="replace")  # whatever the locale's encoding is
    failed: list[str] = []
    skipped: dict[str, list[str]] = collections.defaultdict(list)
    empty: list[str] = []
    for path in paths:
        suite = pathlib.Path(path).stem
        cases = list(xml.parse(path).getroot().iter("testcase"))
        if not cases:
            empty.append(suite)
        for case in cases:
            name = f"{suite}: {case.get('name')}"
            skip = case.find("skipped")
            if case.find("failure") is not None or case.find("error") is not None:
                failed.append(name)
            elif skip is not None or case.get("status") in {"notrun", "disabled"}:
                skipped[skip_reason(case, skip)].append(name)
            else:
                passed += 1

    for reason, names in sorted(skipped.items()):
        shown = ", ".join(names[:MAX_NAMES_PER_REASON])
        more = len(names) - MAX_NAMES_PER_REASON
        print(f"skipped ({len(names)}): {reason}\n    {shown}" + (f", … {more} more" * (more > 0)))
    for name in failed:
        print(f"FAILED  {name}")
    for suite in empty:
        print(f"FAILED  {suite}: no test ran")
    count = sum(len(names) for names in skipped.values())
    print(f"{passed} passed, {len(failed) + len(empty)} failed, {count} skipped")
    return 1 if failed or empty else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
