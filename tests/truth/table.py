"""One row for each program, interpreter, way, engine and load."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Sequence

from checks import Bounds, Judgement

NOTHING = "-"
FAULTS_SHOWN = 3


@dataclasses.dataclass
class Row:
    program: str
    python: str
    way: str
    engine: str
    load: str
    found: Judgement
    is_judged: bool = True  # other profilers' rows miss no bounds

    @property
    def is_quiet(self) -> bool:
        return self.load == "quiet"

    def missed(self, bounds: Bounds) -> list[str]:
        return bounds.missed(self.found, self.is_quiet)


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def _share(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


COLUMNS = (
    ("program", "<"), ("python", "<"), ("way", "<"), ("engine", "<"), ("load", "<"),
    ("runs", ">"), ("wrong", ">"), ("samples", ">"), ("imposs/M", ">"), ("leaf", ">"),
    ("misnamed", ">"), ("points", ">"), ("life%", ">"), ("missing%", ">"), ("marked%", ">"),
    ("threads", ">"), ("lost", ">"), ("on_cpu", ">"),
    ("torn", ">"), ("invalid", ">"), ("unproved", ">"), ("missed bounds", "<"),
)  # fmt: skip


def _cells(row: Row, bounds: Bounds) -> list[str]:
    found = row.found
    footer = [
        str(found.footer[key]) if key in found.footer else NOTHING
        for key in ("torn_marked", "invalid", "unproved")
    ]
    return [
        row.program, row.python, row.way, row.engine, row.load,
        str(found.runs), str(found.wrong_runs), str(found.samples),
        _rate(found.impossible_rate), str(found.wrong_leaves), str(found.misnamed),
        _share(found.points), _share(found.life_percent), _share(found.missing_percent),
        _share(found.marked_percent), str(found.threads), str(found.lost_threads),
        NOTHING if found.on_cpu is None else f"{found.on_cpu:.2f}",
        *footer, " ".join(row.missed(bounds)),
    ]  # fmt: skip


def render(rows: Sequence[Row], bounds: Bounds) -> str:
    cells = [_cells(row, bounds) for row in rows]
    widths = [
        max([len(title)] + [len(line[at]) for line in cells])
        for at, (title, _) in enumerate(COLUMNS)
    ]
    lines = []
    for words in [[title for title, _ in COLUMNS], *cells]:
        parts = [f"{word:{side}{width}}" for word, width, (_, side) in zip(words, widths, COLUMNS)]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def render_faults(rows: Sequence[Row], bounds: Bounds) -> str:
    """The commonest faults of each row that misses a bound."""
    lines = []
    for row in rows:
        if not row.missed(bounds):
            continue
        lines.append(f"{row.program} {row.python} {row.way} {row.engine} {row.load}:")
        lines += [f"  {error}" for error in row.found.errors[:FAULTS_SHOWN]]
        common = row.found.faults.most_common(FAULTS_SHOWN)
        lines += [f"  {count} × {fault}" for fault, count in common]
    return "\n".join(lines)


def render_totals(rows: Sequence[Row], bounds: Bounds) -> str:
    """For each engine all of its samples; and how often all of the footer's figures were 0 though the
    profile was wrong."""
    lines = []
    for engine in dict.fromkeys(row.engine for row in rows):
        its = [row for row in rows if row.engine == engine]
        samples = sum(row.found.samples for row in its)
        impossible = sum(row.found.impossible for row in its)
        leaves = sum(row.found.wrong_leaves for row in its)
        rate = impossible * 1e6 / samples if samples else 0.0
        lines.append(
            f"{engine}: {samples:,} samples, {impossible:,} impossible ({_rate(rate)} in a million),"
            f" {leaves:,} wrong leaves, {sum(bool(row.missed(bounds)) for row in its)} of {len(its)}"
            " rows miss a bound"
        )
    silent = [row for row in rows if row.is_judged and is_silently_wrong(row.found)]
    lines.append(f"wrong while torn_marked, invalid and unproved were all 0: {len(silent)} rows")
    return "\n".join(lines)


def is_silently_wrong(found: Judgement) -> bool:
    is_wrong = found.impossible or found.wrong_leaves or found.misnamed or found.lost_threads
    figures = sum(found.footer.get(key, 0) for key in ("torn_marked", "invalid", "unproved"))
    return bool(is_wrong and not figures)


def as_json(row: Row, bounds: Bounds) -> dict[str, Any]:
    facts = dataclasses.asdict(row)
    found = facts.pop("found")
    found["faults"] = dict(row.found.faults.most_common(20))
    for name in ("impossible_rate", "missing_percent", "marked_percent"):
        found[name] = getattr(row.found, name)
    return {**facts, **found, "missed": row.missed(bounds)}


def write_json(path: pathlib.Path, rows: Sequence[Row], bounds: Bounds, is_whole: bool) -> None:
    whole = {
        "complete": is_whole,
        "bounds": dataclasses.asdict(bounds),
        "rows": [as_json(row, bounds) for row in rows],
    }
    path.write_text(json.dumps(whole, indent=1) + "\n")
