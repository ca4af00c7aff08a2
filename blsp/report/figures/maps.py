"""Figures of representations: where they lie, and how alike they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from blsp.analysis.similarity import Estimate
from blsp.evaluation.scores import Figure
from blsp.report.figures.drawing import (
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    Labels,
    as_figure,
    bare,
    drawing,
    format_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[Any]

INSTRUCTION_COLOURS = {"CW": ORANGE, "SA": VERMILION, "SR": BLUE, "ST": GREY}
"""Colours of the instructions. Source: paper, figure 1 (its orange, red, blue and gray)."""
_OTHER_INSTRUCTIONS = (PURPLE, "#009E73", "#56B4E9", "#000000")


@dataclass(frozen=True)
class PointMap:
    """Representations of one system in the plane."""

    speech: Array
    """Points of N utterances under I instructions, float (I, N, 2)."""
    text: Array
    """Points of their transcripts, float (I, N, 2)."""


def representation_maps(
    maps: Mapping[str, PointMap], names: Sequence[str], labels: Labels, *, highlighted: Sequence[int] = ()
) -> Figure:
    """Scatter of representations: colour tells the instruction, triangles are speech, crosses transcripts.

    Args:
        maps: One or more systems, by name.
        names: Short names of the I instructions.
        labels: What stands around the figure.
        highlighted: Utterances whose speech and transcript are circled and joined by a dashed line.

    Raises:
        UnsupportedError: matplotlib is not installed.

    Source: paper, figures 1 and 3.
    """
    columns = min(3, len(maps))
    rows = math.ceil(len(maps) / columns)
    with drawing(0.6 + 4.2 * columns, 0.9 + 3.9 * rows) as page:
        panels = page.subplots(rows, columns, squeeze=False).ravel()
        colours = _instruction_colours(names)
        for axes, (system, points) in zip(panels, maps.items()):
            axes.set_title(system)
            bare(axes)
            for i, colour in enumerate(colours):
                axes.scatter(*points.text[i].T, marker="x", s=34, linewidths=1.4, color=colour, alpha=0.9)
                axes.scatter(
                    *points.speech[i].T, marker="^", s=42, facecolors="none", edgecolors=colour, linewidths=1.2
                )
                _join_pairs(axes, points.speech[i][list(highlighted)], points.text[i][list(highlighted)])
        for axes in panels[len(maps) :]:
            axes.set_visible(False)
        page.legend(handles=_map_legend(names, colours, bool(highlighted)), loc="outside lower center", ncols=4)
        alt = (
            f"Scatter plots of representations under the instructions {', '.join(names)}, of speech (triangles) and "
            f"transcripts (crosses), for {', '.join(maps)}. {labels.caption}"
        )
        return as_figure(page, labels, alt)


def _instruction_colours(names: Sequence[str]) -> list[str]:
    others = iter(_OTHER_INSTRUCTIONS * len(names))
    return [INSTRUCTION_COLOURS.get(name) or next(others) for name in names]


def _join_pairs(axes: Axes, speech: Array, text: Array) -> None:
    for a, b in zip(speech, text):
        axes.plot(*np.stack([a, b]).T, linestyle="--", color="black", linewidth=0.9)
        for point in (a, b):
            axes.plot(*point, marker="o", markersize=11, markerfacecolor="none", markeredgecolor="black", mew=0.9)


def _map_legend(names: Sequence[str], colours: Sequence[str], has_pairs: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker="s", linestyle="", color=c, markersize=8, label=n) for n, c in zip(names, colours)]
    sign = {"linestyle": "", "color": "#444444", "markersize": 7, "markeredgewidth": 1.3, "markerfacecolor": "none"}
    handles.append(Line2D([], [], marker="^", label="speech", **sign))  # type: ignore[arg-type]
    handles.append(Line2D([], [], marker="x", label="transcript", **sign))  # type: ignore[arg-type]
    if has_pairs:
        handles.append(Line2D([], [], linestyle="--", color="black", linewidth=0.9, label="one pair"))
    return handles


def similarity_maps(
    tables: Mapping[str, Estimate],
    names: Sequence[str],
    labels: Labels,
    *,
    paper: Mapping[str, Sequence[Sequence[float]]] | None = None,
) -> Figure:
    """Heat maps of cosine similarities between instructions, with intervals and the paper's numbers.

    Args:
        tables: One or more systems, by name; values (I, I).
        names: Short names of the I instructions.
        labels: What stands around the figure.
        paper: The paper's tables, for systems that it has too.

    Raises:
        UnsupportedError: matplotlib is not installed.

    Source: paper, tables 7 and 12.
    """
    columns = min(3, len(tables))
    rows = math.ceil(len(tables) / columns)
    lowest = min(0.0, *(float(table.values.min()) for table in tables.values()))
    with drawing(0.9 + 3.7 * columns, 0.3 + 3.8 * rows) as page:
        panels = page.subplots(rows, columns, squeeze=False).ravel()
        for axes, (system, table) in zip(panels, tables.items()):
            image = axes.imshow(table.values, vmin=lowest, vmax=1, cmap="cividis")
            axes.set_title(system)
            axes.set_xticks(range(len(names)), names)
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            _write_cells(axes, table, (paper or {}).get(system), lowest)
        for axes in panels[len(tables) :]:
            axes.set_visible(False)
        page.colorbar(image, ax=list(panels[: len(tables)]), label="cosine similarity", shrink=0.75)
        texts = [f"{system}: {_as_sentence(table, names)}" for system, table in tables.items()]
        return as_figure(page, labels, "Heat maps of cosine similarities between instructions. " + " ".join(texts))


def _write_cells(axes: Axes, table: Estimate, paper: Sequence[Sequence[float]] | None, lowest: float) -> None:
    """Numbers in the cells, black on the bright ones; the colours go from `lowest` to 1."""
    for (i, j), value in np.ndenumerate(table.values):
        colour = "black" if value - lowest > 0.55 * (1 - lowest) else "white"
        axes.text(j, i - 0.16, format_number(value, 3), ha="center", va="center", color=colour, fontsize=11)
        decimals = 3 if value > 0.95 else 2  # near 1, the third is what counts
        ends = (format_number(end[i, j], decimals) for end in (table.low, table.high))
        lines = [] if i == j else [" to ".join(ends)]
        lines += [] if paper is None or i == j else [f"paper {format_number(paper[i][j], 3)}"]
        axes.text(j, i + 0.22, "\n".join(lines), ha="center", va="center", color=colour, fontsize=7)


def _as_sentence(table: Estimate, names: Sequence[str]) -> str:
    pairs = [(i, j) for i in range(len(names)) for j in range(i)]
    return ", ".join(f"{names[j]}-{names[i]} {table.values[i, j]:.3f}" for i, j in pairs) + "."
