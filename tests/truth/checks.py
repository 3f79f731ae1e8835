"""Compares a profile with what its program knows of itself (truth.py)."""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from typing import Iterable, Sequence

from profile_text import Profile, Sample
from truth import Life, Truth

SAMPLER = "echion.core.sampler"
# What a thread is called that the profiler knows no name of.
NAMELESS = re.compile(r"(thread-\d+|\d+|0x[0-9a-f]+)?")
# What else stands in a frame's place where the profile says that it does not know it.
UNTOLD = {"TRUNCATED", "<unknown>"}
# Time at both ends of a span that no sampler can tell: so many intervals.
EDGE_TICKS = 2
# A thread must be in the profile, with stacks, when it had so many intervals.
CERTAIN_TICKS = 20
# Shares are compared of a whole of at least so many intervals.
COMPARABLE_TICKS = 50
# A wait can be told from what comes before it when one line has so much of it.
MUCH_OF_A_WAIT = 0.5


@dataclasses.dataclass
class Judgement:
    """What was found in one profile, or in several of the same program. Samples are counted by their
    time: a line of 30 intervals stands for 30 samples."""

    runs: int = 0
    wrong_runs: int = 0
    samples: int = 0
    impossible: int = 0
    wrong_leaves: int = 0
    misnamed: int = 0  # samples of one thread's function under another thread's name
    points: float = 0.0  # of the worst function, in % of all functions' time
    life_percent: float = 0.0  # of the worst thread
    missing_s: float = 0.0
    marked_s: float = 0.0
    measured_s: float = 0.0  # what the program measured of its threads
    profiled_s: float = 0.0
    threads: int = 0
    lost_threads: int = 0  # without name, without stacks, or not there
    on_cpu: float | None = None  # the footer's figure, for each second of CPU time; the worst
    footer: dict[str, int] = dataclasses.field(default_factory=dict)
    faults: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    errors: list[str] = dataclasses.field(default_factory=list)

    @property
    def impossible_rate(self) -> float:
        """Of a million samples."""
        return self.impossible * 1e6 / self.samples if self.samples else 0.0

    @property
    def missing_percent(self) -> float:
        return 100 * self.missing_s / self.measured_s if self.measured_s else 0.0

    @property
    def marked_percent(self) -> float:
        return 100 * self.marked_s / self.profiled_s if self.profiled_s else 0.0

    def add(self, other: Judgement) -> None:
        """Sums of counts and times, the worst of shares."""
        for field in dataclasses.fields(self):
            mine, its = getattr(self, field.name), getattr(other, field.name)
            if field.name in ("points", "life_percent"):
                setattr(self, field.name, max(mine, its))
            elif field.name == "on_cpu":
                known = [one for one in (mine, its) if one is not None]
                self.on_cpu = max(known, key=lambda ratio: abs(ratio - 1)) if known else None
            elif field.name == "footer":
                self.footer = {key: mine.get(key, 0) + its.get(key, 0) for key in {*mine, *its}}
            else:
                setattr(self, field.name, mine + its)


FOOTER_FIGURES = ("samples", "torn_marked", "invalid", "unproved")


def judge(profile: Profile, truth: Truth, interval_us: int, is_cpu_time: bool) -> Judgement:
    check = _Check(profile, truth, interval_us)
    check.judge_stacks()
    if profile.is_ordered:
        check.judge_order()
    if not is_cpu_time:
        check.judge_waits()
    check.judge_spans()
    check.judge_pieces()
    check.judge_lives()
    if not is_cpu_time:
        check.judge_on_cpu()
    return check.found


class _Check:
    def __init__(self, profile: Profile, truth: Truth, interval_us: int):
        self._truth = truth
        self._interval_us = interval_us
        self._edge_s = EDGE_TICKS * interval_us / 1e6
        self._profile = profile
        self._samples = [one for one in profile.samples if one.thread != SAMPLER]
        self._order = {piece.file: at for at, piece in enumerate(truth.pieces)}
        self._leaf_pieces = {piece.file for piece in truth.pieces if piece.is_leaf}
        self.found = Judgement(runs=1)
        self.found.samples = sum(map(self._weight, self._samples))
        self.found.profiled_s = _seconds(self._samples)
        self.found.marked_s = _seconds(one for one in self._samples if is_untold(one))
        for key in FOOTER_FIGURES:
            if key in profile.footer:
                self.found.footer[key] = profile.figure(key)
        if not self._samples:
            self.found.errors.append("a profile without samples")

    def _weight(self, sample: Sample) -> int:
        return max(1, round(sample.metric / self._interval_us))

    def _blame(self, sample: Sample, count: str, fault: str) -> None:
        weight = self._weight(sample)
        setattr(self.found, count, getattr(self.found, count) + weight)
        self.found.faults[fault] += weight

    # --- single stacks -------------------------------------------------------------------------

    def judge_stacks(self) -> None:
        for sample in self._samples:
            if is_untold(sample):
                continue
            if fault := self._fault(sample):
                self._blame(sample, "impossible", fault)
            elif self._profile.names_threads and (owner := self._foreign_owner(sample)):
                self._blame(sample, "misnamed", f"a stack of {owner} under {sample.thread}")

    def _fault(self, sample: Sample) -> str | None:
        for at, frame in enumerate(sample.frames):
            place = self._truth.places.get(frame.name)
            if place not in (None, sample.iid):
                return f"{frame.name} of interpreter {place} in number {sample.iid}"
            if at + 1 < len(sample.frames) and _last_name(frame.file) in self._leaf_pieces:
                if sample.frames[at + 1].function != "GC":
                    return f"{frame.file} does not run {sample.frames[at + 1].name}"
        if sample.iid == 0 and self._truth.grammar:
            return self._truth.grammar.fault(sample)
        if self._truth.fault and sample.thread == "MainThread":
            return self._truth.fault(sample) or None
        return None

    def _foreign_owner(self, sample: Sample) -> str | None:
        for frame in sample.frames:
            owner = self._truth.owners.get(frame.name)
            if owner and not (sample.thread.startswith(owner) or _is_nameless(sample)):
                return owner
        return None

    # --- the order of lines --------------------------------------------------------------------

    def judge_order(self) -> None:
        """Between the first and the last of the program's functions a thread is in these, and pieces
        that run one after the other come one after the other."""
        lines: dict[tuple[int, int, str], list[Sample]] = collections.defaultdict(list)
        for sample in self._samples:
            is_known = not (_is_nameless(sample) and self._profile.names_threads)
            if is_known and not is_untold(sample):
                lines[sample.pid, sample.iid, sample.thread].append(sample)
        for (_, iid, thread), samples in lines.items():
            self._judge_pieces_order(samples)
            if iid == 0 and self._truth.grammar:
                # Others may begin later: a new thread waits for the interpreter's lock before it
                # has a frame.
                was_there = self._truth.was_ready and thread == "MainThread"
                self._judge_interruptions(samples, was_there)

    def _judge_interruptions(self, samples: list[Sample], was_there: bool) -> None:
        grammar = self._truth.grammar
        possible = [one for one in samples if not grammar.fault(one)]
        own = [any(map(grammar.is_own, one.frames)) for one in possible]
        if not any(own):
            return
        begin = 0 if was_there else own.index(True)
        end = len(own) - own[::-1].index(True)
        for sample, is_own in list(zip(possible, own))[begin:end]:
            if not is_own:
                leaf = sample.names[-1] if sample.frames else "no frame"
                self._blame(sample, "impossible", f"none of the program's functions, but {leaf}")

    def _judge_pieces_order(self, samples: list[Sample]) -> None:
        newest = -1
        for sample in samples:
            piece = self._piece_of(sample)
            if piece is None:
                continue
            if piece < newest:
                fault = f"{self._truth.pieces[piece].file} after {self._truth.pieces[newest].file}"
                self._blame(sample, "impossible", fault)
            newest = max(newest, piece)

    def _piece_of(self, sample: Sample) -> int | None:
        for frame in sample.frames:
            if (at := self._order.get(_last_name(frame.file))) is not None:
                return at
        return None

    # --- waits ---------------------------------------------------------------------------------

    def judge_waits(self) -> None:
        for wait in self._truth.waits:
            if not self._profile.names_threads and wait.thread != "MainThread":
                continue
            much_s = max(MUCH_OF_A_WAIT * wait.each_s, wait.beside_s + self._edge_s)
            much_us = 1e6 * much_s
            for sample in self._samples:
                is_its = sample.thread == wait.thread or not self._profile.names_threads
                if not is_its or is_untold(sample) or sample.metric < much_us:
                    continue
                if wait.within not in (None, *sample.names):
                    continue
                leaf = sample.frames[-1] if sample.frames else None
                if not leaf or (_last_name(leaf.file), leaf.name) not in wait.leaves:
                    where = f"{leaf.file}:{leaf.function}:{leaf.line}" if leaf else "no frame"
                    self._blame(sample, "wrong_leaves", f"{wait.thread} waits in {where}")

    # --- times ---------------------------------------------------------------------------------

    def judge_spans(self) -> None:
        """Shares of the functions; of a single one, its time."""
        spans = self._truth.spans
        whole = sum(span.seconds for span in spans)
        if not self._is_comparable(whole):
            return
        seen = [_seconds(filter(span.holds, self._samples)) for span in spans]
        if len(spans) == 1 or not sum(seen):
            lacks = max(0.0, whole - sum(seen) - self._edge_s - self.found.marked_s)
            self._note_points(100 * lacks / whole, spans[0].label)
            return
        for span, its in zip(spans, seen):
            apart = abs(its / sum(seen) - span.seconds / whole)
            edges = self._edge_s / whole
            self._note_points(100 * max(0.0, apart - edges), span.label)

    def judge_pieces(self) -> None:
        """What pieces have that others had, of all pieces' time."""
        pieces = self._truth.pieces
        whole = sum(piece.seconds for piece in pieces)
        if not self._is_comparable(whole):
            return
        seen: collections.Counter[int] = collections.Counter()
        for sample in self._samples:
            if (at := self._piece_of(sample)) is not None:
                seen[at] += sample.metric
        if not seen:
            return
        excess = {
            piece.file: max(0.0, seen[at] / 1e6 - piece.seconds - self._edge_s)
            for at, piece in enumerate(pieces)
        }
        self._note_points(100 * sum(excess.values()) / whole, max(excess, key=excess.get))

    def _is_comparable(self, whole_s: float) -> bool:
        return whole_s * 1e6 >= COMPARABLE_TICKS * self._interval_us

    def _note_points(self, points: float, label: str) -> None:
        if points > self.found.points:
            self.found.points = points
        if points >= 1:
            self.found.faults[f"{label} is {points:.1f} points off"] += 1

    def judge_lives(self) -> None:
        lives = self._truth.lives
        self.found.threads = len(lives)
        if not self._profile.names_threads:
            for life in _merge_by_function(lives):
                self._judge_life(life, self._samples)
            return
        of_thread: dict[str, list[Sample]] = collections.defaultdict(list)
        for sample in self._samples:
            of_thread[sample.thread].append(sample)
        nameless = {name for name in of_thread if NAMELESS.fullmatch(name)}
        functions = collections.Counter(life.within for life in lives)
        for life in lives:
            its = list(of_thread.get(life.thread, ()))
            if life.within and functions[life.within] == 1:
                # Such a thread has lost its name, which counts below, but not this time.
                for name in nameless - {life.thread}:
                    its += [one for one in of_thread[name] if life.within in one.names]
            self._judge_life(life, its)
        for name in nameless:
            frames = "" if any(one.frames for one in of_thread[name]) else " and stacks"
            self.found.faults[f"a thread without a name{frames}"] += 1
        self.found.lost_threads += len(nameless)

    def _judge_life(self, life: Life, samples: list[Sample]) -> None:
        found = self.found
        found.measured_s += life.least_s
        seen_s = _seconds(one for one in samples if life.within in (None, *one.names))
        # Marked time has no function: it may be of this life, or of the time before it.
        marked_s = _seconds(one for one in samples if is_untold(one)) if life.within else 0.0
        lacks = max(0.0, life.least_s - seen_s - marked_s - self._edge_s)
        exceeds = max(0.0, seen_s - life.most_s - self._edge_s)
        found.missing_s += lacks
        if life.least_s * 1e6 < CERTAIN_TICKS * self._interval_us:
            return
        percent = 100 * max(lacks, exceeds) / life.least_s
        found.life_percent = max(found.life_percent, percent)
        if percent >= 1:
            sign = "-" if lacks else "+"
            found.faults[f"{life.thread} has {sign}{percent:.0f} % of its life"] += 1
        if not any(one.frames for one in samples):
            found.lost_threads += 1
            found.faults[f"{life.thread} is not there, or has no stacks"] += 1

    def judge_on_cpu(self) -> None:
        if self._truth.cpu_s is None or "on_cpu" not in self._profile.footer:
            return
        program_s = self._truth.cpu_s - self._profile.figure("sampler_cpu_ns") / 1e9
        if program_s > 0:
            self.found.on_cpu = self._profile.figure("on_cpu") / 1e6 / program_s


def _seconds(samples: Iterable[Sample]) -> float:
    return sum(one.metric for one in samples) / 1e6


def is_untold(sample: Sample) -> bool:
    """Whether the profile itself says that it does not know, or not all."""
    return sample.is_marked or any(
        not frame.file and frame.function in UNTOLD for frame in sample.frames
    )


def _merge_by_function(lives: Sequence[Life]) -> list[Life]:
    """One life for each function: where threads have no names, functions tell them apart."""
    merged: dict[str | None, Life] = {}
    for life in lives:
        known = merged.get(life.within)
        merged[life.within] = dataclasses.replace(
            life,
            least_s=life.least_s + (known.least_s if known else 0.0),
            most_s=life.most_s + (known.most_s if known else 0.0),
        )
    return list(merged.values())


def _is_nameless(sample: Sample) -> bool:
    return NAMELESS.fullmatch(sample.thread) is not None


def _last_name(file: str) -> str:
    return os.path.basename(file)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a profile must keep to."""

    impossible_rate: float = 1.0  # of a million samples
    wrong_leaves: int = 0
    misnamed: int = 0
    lost_threads: int = 0
    points: float = 2.0
    life_percent: float = 1.0
    untold_percent: float = 1.0  # marked and missing time; on a quiet machine only
    on_cpu: tuple[float, float] = (0.75, 1.25)

    def missed(self, found: Judgement, is_quiet: bool) -> list[str]:
        """The names of the bounds that are not kept."""
        on_cpu = 1.0 if found.on_cpu is None else found.on_cpu
        untold = found.missing_percent + found.marked_percent
        is_missed = {
            "run": bool(found.errors),
            "impossible": found.impossible_rate > self.impossible_rate,
            "leaf": found.wrong_leaves > self.wrong_leaves,
            "misnamed": found.misnamed > self.misnamed,
            "thread": found.lost_threads > self.lost_threads,
            "points": found.points > self.points,
            "life": found.life_percent > self.life_percent,
            "untold": is_quiet and untold > self.untold_percent,
            "on_cpu": not self.on_cpu[0] <= on_cpu <= self.on_cpu[1],
        }
        return [name for name, one in is_missed.items() if one]
