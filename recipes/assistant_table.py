"""Print what `voicechat evaluate embedded/assistant` found about several models as one Markdown table.

Run: python -m recipes.assistant_table runs/assistant/embedded runs/assistant/tiny
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from blsp.evaluation.measures import CORRECT
from blsp.evaluation.scores import Report, Score
from blsp.report.lay_out import MISSING, format_interval, format_value
from blsp.report.report_folder import read_report

SYSTEMS = ("typed", "cascade", "ours")
"""As they are called in recipes/configs/embedded/assistant.yaml."""
ASKED = {
    "exact match": "answered exactly as when typed, %",
    "first sentence": "first sentence as when typed, %",
    "agreement": "same first word as when typed, or token F1 of at least 0.5, %",
    CORRECT: "answered right, by a key, %",
    "chrF": "agreement with the translation of the transcript, chrF",
}
"""Metrics of the table, and what they are called there."""
BY_DEFINITION = "100 by definition"


def table(reports: Sequence[tuple[str, Report]]) -> str:
    """The table, a row for each task, metric and model."""
    header = ("model", "what", "n", *SYSTEMS, "ours, % of cascade")
    rows = [row for name, report in reports for row in _rows(name, report.scores)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ("---",) * len(header), *rows)) + "\n"


def _rows(model: str, scores: Sequence[Score]) -> Iterator[tuple[str, ...]]:
    found = {(s.task, s.metric, s.system): s for s in scores}
    for task in dict.fromkeys(s.task for s in scores):
        for metric, what in ASKED.items():
            own = [found.get((task, metric, system)) for system in SYSTEMS]
            if not any(own):
                continue
            cells = [_cell(score) for score in own]
            if own[0] is None:
                cells[0] = BY_DEFINITION
            ratio = _cell(found.get((task, f"{metric}, % of cascade", "ours")))
            n = next(score.n for score in own if score is not None)
            yield (model, f"{task}: {what}", str(n), *cells, ratio)


def _cell(score: Score | None) -> str:
    if score is None:
        return MISSING
    interval = format_interval(score.low, score.high, score.metric)
    return f"{format_value(score.value, score.metric)} {interval}".strip()


def main() -> None:
    """Read the folders named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="what `voicechat evaluate embedded/assistant` has filled")
    arguments = parser.parse_args()
    print(table([(folder.name, read_report(folder / "report" / "page")) for folder in arguments.folders]), end="")


if __name__ == "__main__":
    main()
