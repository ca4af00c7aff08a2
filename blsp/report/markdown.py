"""Sections of a report as Markdown that GitHub shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from blsp.report.lay_out import Cell, Grid, Section

FIGURE_FOLDER = "figures"


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The page, with figures as links to `figures/NAME.svg`."""
    blocks = [f"# {_escape(title)}", *(block for section in sections for block in _blocks(section))]
    return "\n\n".join(blocks) + "\n"


def _blocks(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    yield from map(_escape, section.paragraphs)
    if section.points:
        yield "\n".join(f"- {_escape(point)}" for point in section.points)
    for grid in section.grids:
        yield from _grid_blocks(grid)
    for figure in section.figures:
        yield f"### {_escape(figure.title)}"
        yield f"![{_escape_field(figure.alt)}]({FIGURE_FOLDER}/{figure.name}.svg)"
        yield _escape(figure.caption)


def _grid_blocks(grid: Grid) -> Iterator[str]:
    if grid.title:
        yield f"### {_escape(grid.title)}"
    groups = [name for name, span in grid.groups for _ in range(span)] or [""] * len(grid.header)
    header = [
        " ".join(part for part in (f"{group}:" if group else "", _cell(cell)) if part)
        for group, cell in zip(groups, grid.header)
    ]
    yield "\n".join([_row(header), _row(["---"] * len(header)), *(_row([_cell(c) for c in row]) for row in grid.rows)])
    if grid.note:
        yield _escape(grid.note)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    text = _escape_field(cell.text)
    if cell.link is not None:
        text = f"[{text}](<{cell.link}>)"
    if cell.strong and text:
        text = f"**{text}**"
    small = [_escape_field(part) for part in (cell.interval, cell.paper) if part]
    return "<br>".join(part for part in (text, *small) if part)


def _escape(text: str) -> str:
    """Text that is not read as markup."""
    return re.sub(r"[\\`*_<]|(?<=\])\(", lambda match: "\\" + match.group(), text)


def _escape_field(text: str) -> str:
    """Text that is not read as markup and stays in its field."""
    return _escape(" ".join(text.split())).replace("|", "\\|")
