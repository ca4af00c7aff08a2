"""A report as sections of tables and figures, for every format alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from blsp.evaluation.scores import Comparison, Figure, Hypothesis, Report, Score
from blsp.evaluation.significance import holm
from blsp.report.paper_results import PAPER_TABLES, PaperColumn, PaperTable
from blsp.report.verdicts import SIGNIFICANT, relevant_difference

MISSING = "–"
_FINE_METRICS = ("cosine", "KL")
"""Metrics with three decimals; the others are percentages or points."""
_MANY_TASKS = 4
"""Above these, a table has a row for each task rather than for each task and system."""


@dataclass(frozen=True)
class Cell:
    """What stands in one field of a table."""

    text: str
    """The main thing."""
    interval: str = ""
    """How sure it is."""
    paper: str = ""
    """The paper's number."""
    link: str | None = None
    """What the text leads to, relative to the report."""
    strong: bool = False
    """Whether to show it as the point of the row."""


@dataclass(frozen=True)
class Grid:
    """A table, formatted."""

    header: tuple[Cell, ...]
    """Heading of each column; the interval is a second line."""
    rows: tuple[tuple[Cell, ...], ...]
    """Cells, as many in a row as in the header."""
    title: str = ""
    """Heading of the table."""
    groups: tuple[tuple[str, int], ...] = ()
    """Headings above the header, and over how many columns each stands."""
    note: str = ""
    """What a reader must know."""
    folded: bool = False
    """Whether to show it only on demand, where the format can."""
    prose: bool = False
    """Whether cells hold sentences rather than numbers."""


@dataclass(frozen=True)
class Section:
    """A part of a report under one heading."""

    title: str
    """Heading."""
    paragraphs: tuple[str, ...] = ()
    """Text before the rest."""
    points: tuple[str, ...] = ()
    """A list."""
    grids: tuple[Grid, ...] = ()
    """Tables."""
    figures: tuple[Figure, ...] = ()
    """Figures."""


def lay_out_report(report: Report) -> list[Section]:
    """Sections of a report; what is empty is left out."""
    sections = [
        Section("In short", points=report.headlines),
        Section(
            "Beside the paper",
            paragraphs=(
                "Each cell: our score, its 95 % bootstrap interval over utterances, and the paper's own number. "
                "The paper's systems are built on Whisper-small and Llama-2-7B; see the facts for ours.",
            ),
            grids=tuple(grid for table in PAPER_TABLES for grid in _paper_grid(table, report.scores)),
        ),
        Section("All scores", grids=tuple(_score_grids(report.scores))),
        Section("Differences between systems", grids=tuple(_comparison_grids(report.comparisons))),
        Section("Findings", points=report.findings),
        Section("Figures", figures=report.figures),
        Section(
            "More tables",
            grids=tuple(
                Grid(_cells(t.header), tuple(_cells(row) for row in t.rows), title=t.title, note=t.note)
                for t in report.tables
            ),
        ),
        Section("Worst answers", grids=tuple(_worst_grids(report.worst))),
        Section("How this was measured", grids=tuple(_fact_grids(report.facts))),
    ]
    return [s for s in sections if s.points or s.grids or s.figures]


def format_value(value: float, metric: str) -> str:
    """A score with as many decimals as its metric deserves."""
    return f"{value:.{_decimals(metric)}f}"


def format_interval(low: float | None, high: float | None, metric: str, *, signed: bool = False) -> str:
    """Both ends of an interval, or nothing."""
    if low is None or high is None:
        return ""
    sign, decimals = "+" if signed else "", _decimals(metric)
    return f"[{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]"


def format_metric(metric: str, *, higher_is_better: bool) -> str:
    """A metric with an arrow that points to what is better, if either is: of cosines, neither in itself."""
    if metric.startswith("cosine"):
        return metric
    return f"{metric} {'↑' if higher_is_better else '↓'}"


def format_p_value(p_value: float) -> str:
    """A p-value with three decimals."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def format_details(details: Mapping[str, Any]) -> str:
    """Details in one line."""
    return "; ".join(f"{name} {value}" for name, value in details.items() if name != "paper_task")


def flatten(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Names and values of facts; those of nested mappings with a dot between the names."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ", ".join(map(str, value))
        else:
            yield f"{prefix}{name}", f"{value:.4g}" if isinstance(value, float) else str(value)


def paper_task(score: Score) -> str:
    """Task of the paper that a score stands beside: the one its details name, or its own."""
    return str(score.details.get("paper_task", score.task))


def _decimals(metric: str) -> int:
    return 3 if metric.startswith(_FINE_METRICS) else 1


def _cells(texts: Iterable[str]) -> tuple[Cell, ...]:
    return tuple(Cell(text) for text in texts)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _paper_grid(table: PaperTable, scores: Sequence[Score]) -> Iterator[Grid]:
    """The table with our scores in it; none where we have no score for it."""
    keys = {(column.task, column.metric) for column in table.columns}
    ours = [s for s in scores if (paper_task(s), s.metric) in keys]
    if not ours:
        return
    columns = [(column, task) for column in table.columns for task in _tasks_beside(column, ours)]
    found = {(s.system, s.task, s.metric): s for s in ours}
    systems = _unique([*(name for name, _ in table.rows), *(s.system for s in ours)])
    rows = []
    for system in systems:
        cells = [
            _paper_cell(
                found.get((system, task, column.metric)),
                table.value(system, column.task, column.metric),
                column.metric,
            )
            for column, task in columns
        ]
        rows.append((Cell(system, strong=True), *cells))
    header = (Cell("System"), *(Cell(column.label, interval=_data(column, task, ours)) for column, task in columns))
    groups = [("", 1)]
    for column, _ in columns:
        name, span = groups[-1]
        groups[-1:] = (
            [(name, span + 1)] if name == column.group and len(groups) > 1 else [(name, span), (column.group, 1)]
        )
    yield Grid(
        header,
        tuple(rows),
        title=f"{'Tables' if ' ' in table.number else 'Table'} {table.number}: {table.title}",
        groups=tuple(groups) if any(name for name, _ in groups) else (),
        note=table.note,
    )


def _tasks_beside(column: PaperColumn, scores: Sequence[Score]) -> list[str]:
    """Our tasks that stand in a column of the paper; one column each. At least its own, for the paper's numbers."""
    tasks = _unique(s.task for s in scores if (paper_task(s), s.metric) == (column.task, column.metric))
    return tasks or [column.task]


def _data(column: PaperColumn, task: str, scores: Sequence[Score]) -> str:
    """What a column of ours was measured on, below its heading."""
    sizes = {s.n for s in scores if (s.task, s.metric) == (task, column.metric)}
    if not sizes:
        return "not measured"
    size = f"n = {min(sizes)}" if len(sizes) == 1 else f"n = {min(sizes)} to {max(sizes)}"
    return size if task == column.task else f"ours: {task}, {size}"


def _paper_cell(score: Score | None, paper: float | None, metric: str) -> Cell:
    beside = "" if paper is None else f"paper {format_value(paper, metric)}"
    if score is None:
        return Cell(MISSING, paper=beside)
    interval = format_interval(score.low, score.high, metric)
    return Cell(format_value(score.value, metric), interval=interval, paper=beside, strong=True)


def _score_grids(scores: Sequence[Score]) -> Iterator[Grid]:
    """One table per metric, by task; systems beside each other where there are many tasks."""
    for metric in _unique(s.metric for s in scores):
        chosen = [s for s in scores if s.metric == metric]
        many = len(_unique(s.task for s in chosen)) > _MANY_TASKS
        header, rows = (_wide_rows if many else _long_rows)(chosen)
        title = format_metric(metric, higher_is_better=chosen[0].higher_is_better)
        yield Grid(header, rows, title=title, note=_how(chosen))


def _long_rows(scores: Sequence[Score]) -> tuple[tuple[Cell, ...], tuple[tuple[Cell, ...], ...]]:
    """Header and rows, a row for each task and system."""
    rows = []
    for task in _unique(s.task for s in scores):
        for i, s in enumerate(x for x in scores if x.task == task):
            rows.append(
                (
                    Cell(task if i == 0 else "", strong=True),
                    Cell(s.system),
                    Cell(format_value(s.value, s.metric), strong=True),
                    Cell(format_interval(s.low, s.high, s.metric)),
                    Cell(str(s.n)),
                )
            )
    return _cells(("Task", "System", "Score", "95 % interval", "n")), tuple(rows)


def _wide_rows(scores: Sequence[Score]) -> tuple[tuple[Cell, ...], tuple[tuple[Cell, ...], ...]]:
    """Header and rows, a row for each task and a column for each system."""
    systems, by_key = _unique(s.system for s in scores), {(s.task, s.system): s for s in scores}
    rows = []
    for task in _unique(s.task for s in scores):
        found = [by_key.get((task, system)) for system in systems]
        sizes = sorted({str(s.n) for s in found if s is not None})
        rows.append((Cell(task, strong=True), Cell(", ".join(sizes)), *map(_score_cell, found)))
    return _cells(("Task", "n", *systems)), tuple(rows)


def _score_cell(score: Score | None) -> Cell:
    if score is None:
        return Cell(MISSING)
    interval = format_interval(score.low, score.high, score.metric)
    return Cell(format_value(score.value, score.metric), interval=interval, strong=True)


def _how(scores: Sequence[Score]) -> str:
    """Details of scores, each once, with the tasks they hold for unless that is all."""
    tasks_of: dict[str, list[str]] = {}
    for s in scores:
        if text := format_details(s.details):
            tasks_of.setdefault(text, []).append(s.task)
    everywhere = len(tasks_of) == 1 and len(next(iter(tasks_of.values()))) == len(scores)
    return " · ".join(
        text if everywhere else f"{', '.join(_unique(tasks))}: {text}" for text, tasks in tasks_of.items()
    )


def _comparison_grids(comparisons: Sequence[Comparison]) -> Iterator[Grid]:
    """One table per metric, with p-values corrected for the number of its rows."""
    for metric in _unique(c.metric for c in comparisons):
        chosen, least = [c for c in comparisons if c.metric == metric], relevant_difference(metric)
        rows = [
            (
                Cell(c.task),
                Cell(f"{c.system_a} − {c.system_b}"),
                Cell(
                    f"{c.difference:+.{_decimals(metric)}f}",
                    strong=corrected < SIGNIFICANT and abs(c.difference) >= least,
                ),
                Cell(format_interval(c.low, c.high, metric, signed=True)),
                Cell(format_p_value(c.p_value)),
                Cell(format_p_value(corrected), strong=corrected < SIGNIFICANT),
                Cell(str(c.n)),
            )
            for c, corrected in zip(chosen, holm([c.p_value for c in chosen]))
        ]
        yield Grid(
            _cells(("Task", "Systems", "Difference", "95 % interval", "p", "p, Holm", "n")),
            tuple(rows),
            title=metric,
            note="Interval: paired bootstrap. p: approximate randomisation, two-sided; Holm's correction is for the "
            f"{len(chosen)} comparisons of this table. Bold: p below {SIGNIFICANT} after it, and then a difference of "
            f"at least {least:g}, which matters.",
            folded=len(rows) > 15,
        )


def _worst_grids(worst: Sequence[Hypothesis]) -> Iterator[Grid]:
    if worst:
        rows = tuple(
            (
                Cell(h.system, interval=h.task),
                Cell(h.reference),
                Cell(h.hypothesis or MISSING),
                Cell("listen" if h.audio else MISSING, interval=h.utterance_id, link=h.audio),
            )
            for h in worst
        )
        yield Grid(_cells(("System", "Reference", "Answer", "Speech")), rows, prose=True)


def _fact_grids(facts: Mapping[str, Any]) -> Iterator[Grid]:
    rows = tuple((Cell(name, strong=True), Cell(value)) for name, value in flatten(facts))
    if rows:
        yield Grid(_cells(("Fact", "Value")), rows, prose=True)
