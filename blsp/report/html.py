"""Sections of a report as one HTML page that needs nothing else: no scripts, fonts or style from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from blsp.evaluation.scores import Figure
from blsp.report.lay_out import Cell, Grid, Section

_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_ROOT = re.compile(r"<svg\b.*</svg>", re.DOTALL)
_ACTIVE = re.compile(
    r"<script\b|<foreignObject\b|<[^>]*\son\w+\s*=|href\s*=\s*[\"']\s*(?!#|data:image/)", re.IGNORECASE
)
_IDENTITY = re.compile(r"(\bid=\"|\bhref=\"#|url\(#)")


def to_html(title: str, sections: Sequence[Section], *, subtitle: str = "") -> str:
    """The whole page.

    Raises:
        ValueError: A figure is not an SVG, or holds a script or a link.
    """
    style = files("blsp").joinpath("assets/report/style.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in sections)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>",
            f"<header><h1>{escape(title)}</h1>{_soft(subtitle)}</header>",
            f'<nav aria-label="Sections">{links}</nav>\n<main>',
            *(line for section in sections for line in _section(section)),
            "</main>\n</body>\n</html>\n",
        ]
    )


def inline_svg(figure: Figure) -> str:
    """The figure's `<svg>` element, with names of its own, so that several fit into one page.

    Raises:
        ValueError: It is not an SVG, or holds a script or a link.
    """
    match = _ROOT.search(figure.svg)
    if match is None:
        raise ValueError(f"`svg` of figure {figure.name!r} must hold an <svg> element, but holds none.")
    svg = _METADATA.sub("", match.group())
    if found := _ACTIVE.search(svg):
        raise ValueError(f"`svg` of figure {figure.name!r} must be a picture only, but holds {found.group()!r}.")
    svg = _IDENTITY.sub(lambda m: f"{m.group()}{figure.name}-", svg)
    return re.sub(r"^<svg\b", f'<svg role="img" aria-label="{escape(figure.alt)}"', svg)


def _section(section: Section) -> Iterator[str]:
    yield f'<section id="{_anchor(section.title)}">\n<h2>{escape(section.title)}</h2>'
    yield from (f"<p>{escape(text)}</p>" for text in section.paragraphs)
    if section.points:
        yield f"<ul>{''.join(f'<li>{escape(point)}</li>' for point in section.points)}</ul>"
    for grid in section.grids:
        yield from _grid(grid)
    for figure in section.figures:
        yield f'<figure id="{escape(figure.name)}"><h3>{escape(figure.title)}</h3>'
        yield f'<div class="picture">{inline_svg(figure)}</div>'
        yield f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    yield "</section>"


def _grid(grid: Grid) -> Iterator[str]:
    if grid.title:
        yield f"<h3>{escape(grid.title)}</h3>"
    if grid.folded:
        yield f"<details><summary>Show {len(grid.rows)} rows</summary>"
    # Keyboards scroll only what takes the focus
    yield f'<div class="scroll {"prose" if grid.prose else "numbers"}" tabindex="0"><table>'
    yield "<thead>"
    if grid.groups:
        yield f"<tr>{''.join(_group(name, span) for name, span in grid.groups)}</tr>"
    headings = "".join(f'<th scope="col">{_content(cell)}</th>' for cell in grid.header)
    yield f"<tr>{headings}</tr>\n</thead>\n<tbody>"
    for row in grid.rows:
        yield f"<tr>{''.join(_field(cell, i, grid) for i, cell in enumerate(row))}</tr>"
    yield "</tbody></table></div>"
    if grid.note:
        yield f'<p class="note">{escape(grid.note)}</p>'
    if grid.folded:
        yield "</details>"


def _group(name: str, span: int) -> str:
    if not name:
        return f'<td colspan="{span}"></td>'
    return f'<th colspan="{span}" class="group" scope="colgroup">{escape(name)}</th>'


def _field(cell: Cell, column: int, grid: Grid) -> str:
    if column == 0 and cell.strong:
        return f'<th scope="row">{_content(Cell(cell.text, cell.interval, cell.paper, cell.link))}</th>'
    return f'<td data-label="{escape(grid.header[column].text)}">{_content(cell)}</td>'


def _content(cell: Cell) -> str:
    text = escape(cell.text)
    if cell.link is not None:
        text = f'<a href="{escape(cell.link)}">{text}</a>'
    if cell.strong:
        text = f"<strong>{text}</strong>"
    interval = f"<small>{escape(cell.interval)}</small>" if cell.interval else ""
    paper = f'<small class="paper">{escape(cell.paper)}</small>' if cell.paper else ""
    return text + interval + paper


def _soft(text: str) -> str:
    return f'<p class="soft">{escape(text)}</p>' if text else ""


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
