"""A report as a folder: data, a page to read and a page to paste, and back again."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from blsp.errors import DataError
from blsp.evaluation.scores import Comparison, Figure, Hypothesis, Report, Score, Table
from blsp.report.html import to_html
from blsp.report.lay_out import flatten, lay_out_report
from blsp.report.markdown import FIGURE_FOLDER, to_markdown
from blsp.storage import publish_folder, write_json

JSON_NAME, MARKDOWN_NAME, HTML_NAME = "report.json", "report.md", "report.html"
HEADLINE_FACTS = ("date", "commit", "seed", "hardware")
"""Facts that stand below the title."""
_FIGURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ROW_MARK = ".parquet#"
"""Addresses a row of a parquet file, which no page can play."""

T = TypeVar("T")


def write_report(report: Report, folder: Path) -> None:
    """Write report.json, report.md, report.html and the figures into a folder, which appears whole or not at all.

    Audio files are linked relative to the folder, so that it can move together with them.

    Args:
        report: The report. The audio of its worst answers is relative to the working directory.
        folder: What to write; replaced if it exists.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
        ValueError: A figure has no usable name, is no SVG or holds a script or a link.
    """
    report = replace(report, worst=tuple(_with_relative_audio(h, folder) for h in report.worst))
    with publish_folder(folder) as temporary:
        for figure in report.figures:
            (temporary / FIGURE_FOLDER).mkdir(exist_ok=True)
            if not _FIGURE_NAME.fullmatch(figure.name):
                raise ValueError(f"`name` of a figure must be a file name, but is {figure.name!r} instead.")
            (temporary / FIGURE_FOLDER / f"{figure.name}.svg").write_text(figure.svg, encoding="utf-8")
        write_json(temporary / JSON_NAME, _to_json(report))
        (temporary / MARKDOWN_NAME).write_text(markdown(report), encoding="utf-8")
        (temporary / HTML_NAME).write_text(html(report), encoding="utf-8")


def read_report(path: Path) -> Report:
    """The report in a folder, or in its report.json.

    Raises:
        DataError: There is no report, or it is damaged.
    """
    file = path / JSON_NAME if path.is_dir() else path
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return Report(
            title=data["title"],
            headlines=tuple(data.get("headlines", ())),  # reports of version 0.1 have none
            findings=tuple(data["findings"]),
            scores=_read_all(Score, data["scores"]),
            comparisons=_read_all(Comparison, data["comparisons"]),
            figures=tuple(_read_figure(item, file.parent) for item in data["figures"]),
            tables=_read_all(_read_table, data["tables"]),
            worst=_read_all(Hypothesis, data["worst"]),
            facts=data["facts"],
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"Cannot read a report from {file}: {error}.", hint="Make it: voicechat evaluate") from error


def markdown(report: Report) -> str:
    """The report as Markdown, with figures as links to `figures/NAME.svg`."""
    return to_markdown(report.title, lay_out_report(report))


def html(report: Report) -> str:
    """The report as one self-contained page.

    Raises:
        ValueError: A figure is not an SVG, or holds a script or a link.
    """
    facts = dict(flatten(report.facts))
    subtitle = " · ".join(f"{name} {facts[name]}" for name in HEADLINE_FACTS if name in facts)
    return to_html(report.title, lay_out_report(report), subtitle=subtitle)


def _to_json(report: Report) -> dict[str, Any]:
    data = dataclasses.asdict(report)
    for figure in data["figures"]:
        figure["svg"] = f"{FIGURE_FOLDER}/{figure['name']}.svg"
    return data


def _read_all(kind: Callable[..., T], items: list[dict[str, Any]]) -> tuple[T, ...]:
    return tuple(kind(**item) for item in items)


def _read_figure(item: Mapping[str, Any], folder: Path) -> Figure:
    figure = Figure(**item)
    return replace(figure, svg=(folder / FIGURE_FOLDER / f"{figure.name}.svg").read_text(encoding="utf-8"))


def _read_table(title: str, header: list[str], rows: list[list[str]], note: str) -> Table:
    return Table(title, tuple(header), tuple(tuple(row) for row in rows), note)


def _with_relative_audio(hypothesis: Hypothesis, folder: Path) -> Hypothesis:
    if hypothesis.audio is None or _ROW_MARK in hypothesis.audio:
        return replace(hypothesis, audio=None)
    return replace(hypothesis, audio=Path(os.path.relpath(hypothesis.audio, folder)).as_posix())
