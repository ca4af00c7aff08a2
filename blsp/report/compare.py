"""Two reports side by side: what got better, what got worse, and whether they may be compared at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from blsp.evaluation.scores import Report, Score
from blsp.evaluation.significance import CONFIDENCE, holm
from blsp.report.html import to_html
from blsp.report.lay_out import (
    MISSING,
    Cell,
    Grid,
    Section,
    flatten,
    format_interval,
    format_metric,
    format_value,
)
from blsp.report.markdown import to_markdown
from blsp.report.verdicts import HOW, verdict

Key = tuple[str, str, str]
_SHOWN_DETAILS = ("normalizer", "signature", "instruction")
"""Details that must be equal for two scores to be comparable."""


@dataclass(frozen=True)
class ReportComparison:
    """Two reports, ready to be shown."""

    title: str
    """Heading."""
    sections: tuple[Section, ...]
    """What differs."""

    def markdown(self) -> str:
        """As Markdown."""
        return to_markdown(self.title, self.sections)

    def html(self) -> str:
        """As one self-contained page."""
        return to_html(self.title, self.sections)


def compare(a: Report, b: Report) -> ReportComparison:
    """Scores of the second report minus those of the first, where system, task and metric are the same.

    If no system is in both, and each report is of one, these two are compared.

    The interval of a difference is made of the two scores' own intervals, as if they were of different utterances:
    too wide where they are of the same. For a test that knows the utterances, put both systems into one report.

    Source: Zou and Donner 2008 (intervals of differences from intervals).
    """
    pairs, only_a, only_b = _pair(a.scores, b.scores)
    sections = [
        Section("Scores", paragraphs=_summary(pairs), grids=(_score_grid(pairs),) if pairs else ()),
        Section("Not comparable", points=tuple(_obstacles(pairs))),
        Section("In one report only", points=(*_listed("A", only_a), *_listed("B", only_b))),
        Section("Facts that differ", grids=_fact_grids(a.facts, b.facts)),
    ]
    shown = tuple(s for s in sections if s.paragraphs or s.points or s.grids)
    return ReportComparison(f"A: {a.title} · B: {b.title}", shown)


def difference_interval(a: Score, b: Score) -> tuple[float, float] | None:
    """Ends of the 95 % interval of b - a, as if their utterances were different; None where a score has none.

    Source: Zou and Donner 2008.
    """
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    difference = b.value - a.value
    below = ((b.value - b.low) ** 2 + (a.high - a.value) ** 2) ** 0.5
    above = ((b.high - b.value) ** 2 + (a.value - a.low) ** 2) ** 0.5
    return difference - below, difference + above


def _pair(a: Sequence[Score], b: Sequence[Score]) -> tuple[list[tuple[Score, Score]], list[Score], list[Score]]:
    """Pairs of like scores, and what is in one only."""
    systems_a, systems_b = {s.system for s in a}, {s.system for s in b}
    one_each = len(systems_a) == len(systems_b) == 1

    def key(score: Score) -> Key:
        return "" if one_each else score.system, score.task, score.metric

    in_a, in_b = {key(s): s for s in a}, {key(s): s for s in b}
    pairs = [(in_a[k], in_b[k]) for k in in_a if k in in_b]
    only_a = [score for k, score in in_a.items() if k not in in_b]
    return pairs, only_a, [score for k, score in in_b.items() if k not in in_a]


def _score_grid(pairs: Sequence[tuple[Score, Score]]) -> Grid:
    rows = []
    for (a, b), word in zip(pairs, _verdicts(pairs)):
        interval = difference_interval(a, b)
        low, high = interval or (None, None)
        sign = "+" if b.value - a.value >= 0 else "−"
        rows.append(
            (
                Cell(a.task, strong=True),
                Cell(a.system if a.system == b.system else f"{a.system} → {b.system}"),
                Cell(format_metric(a.metric, higher_is_better=a.higher_is_better)),
                Cell(format_value(a.value, a.metric), interval=format_interval(a.low, a.high, a.metric)),
                Cell(format_value(b.value, b.metric), interval=format_interval(b.low, b.high, b.metric)),
                Cell(
                    f"{sign}{format_value(abs(b.value - a.value), a.metric)}",
                    interval=format_interval(low, high, a.metric, signed=True),
                ),
                Cell(word, strong=word in ("better", "worse")),
            )
        )
    header = tuple(Cell(name) for name in ("Task", "System", "Metric", "A", "B", "B − A", "B is"))
    note = (
        "Intervals are 95 %. That of the difference takes the utterances of A and B for different ones, so it is too "
        f"wide where they are the same. B is judged so: {HOW}."
    )
    return Grid(header, tuple(rows), note=note)


def _verdicts(pairs: Sequence[tuple[Score, Score]]) -> list[str]:
    """Whether B is better or worse, score by score; p-values are those at which the intervals would reach zero."""
    intervals = [difference_interval(a, b) for a, b in pairs]
    p_values = {i: _p_value(*pairs[i], interval) for i, interval in enumerate(intervals) if interval is not None}
    corrected = dict(zip(p_values, holm(list(p_values.values()))))
    return [
        verdict(a.metric, b.value - a.value, corrected[i], higher_is_better=a.higher_is_better)
        if i in corrected
        else MISSING
        for i, (a, b) in enumerate(pairs)
    ]


def _p_value(a: Score, b: Score, interval: tuple[float, float]) -> float:
    """Two-sided p-value of a difference, as if it were normal with the width that its interval has towards zero."""
    difference = b.value - a.value
    width = difference - interval[0] if difference > 0 else interval[1] - difference
    if width <= 0 or difference == 0:
        return float(difference == 0)
    normal = NormalDist()
    return 2 * normal.cdf(-abs(difference) / width * normal.inv_cdf((1 + CONFIDENCE) / 2))


def _summary(pairs: Sequence[tuple[Score, Score]]) -> tuple[str, ...]:
    if not pairs:
        return ("No system, task and metric is in both reports.",)
    verdicts = _verdicts(pairs)
    better, worse = verdicts.count("better"), verdicts.count("worse")
    rest = f"and in {len(pairs) - better - worse} no difference that matters is sure"
    return (f"Of {len(pairs)} scores, B is better in {better}, worse in {worse}, {rest}.",)


def _obstacles(pairs: Sequence[tuple[Score, Score]]) -> list[str]:
    found = []
    for a, b in pairs:
        names = [name for name in _SHOWN_DETAILS if a.details.get(name) != b.details.get(name)]
        differences = [f"{name}: {a.details.get(name)} in A, {b.details.get(name)} in B" for name in names]
        if a.n != b.n:
            differences.append(f"utterances: {a.n} in A, {b.n} in B")
        if differences:
            found.append(f"{a.system}, {a.task}, {a.metric}: {'; '.join(differences)}.")
    return found


def _listed(report: str, scores: Sequence[Score]) -> list[str]:
    return [f"{report}: {s.system}, {s.task}, {s.metric} {format_value(s.value, s.metric)}" for s in scores]


def _fact_grids(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Grid, ...]:
    facts_a, facts_b = dict(flatten(a)), dict(flatten(b))
    rows = tuple(
        (Cell(name, strong=True), Cell(facts_a.get(name, MISSING)), Cell(facts_b.get(name, MISSING)))
        for name in dict.fromkeys([*facts_a, *facts_b])
        if facts_a.get(name) != facts_b.get(name)
    )
    return (Grid(tuple(map(Cell, ("Fact", "A", "B"))), rows, prose=True),) if rows else ()
