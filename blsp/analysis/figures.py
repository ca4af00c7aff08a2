"""Figures of an evaluation: representations, similarities, scores with intervals, quality against training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from blsp.analysis.data_size import Curve
from blsp.analysis.drawing import (
    BLUE,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    Labels,
    as_figure,
    bare,
    drawing,
    series_style,
)
from blsp.analysis.similarity import Estimate
from blsp.evaluation.scores import Figure

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


@dataclass(frozen=True)
class Series:
    """One system's values, a bar for each group."""

    name: str
    """Name of the system."""
    values: Sequence[float | None]
    """One a group; None where there is nothing."""
    low: Sequence[float | None] = ()
    """Lower ends of the 95 % intervals; empty for none."""
    high: Sequence[float | None] = ()
    """Upper ends."""
    paper: Sequence[float | None] = ()
    """What the paper reports; empty for nothing."""


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
    with drawing(0.9 + 3.7 * columns, 0.3 + 3.8 * rows) as page:
        panels = page.subplots(rows, columns, squeeze=False).ravel()
        for axes, (system, table) in zip(panels, tables.items()):
            image = axes.imshow(table.values, vmin=0, vmax=1, cmap="cividis")
            axes.set_title(system)
            axes.set_xticks(range(len(names)), names)
            axes.set_yticks(range(len(names)), names)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            _write_cells(axes, table, (paper or {}).get(system))
        for axes in panels[len(tables) :]:
            axes.set_visible(False)
        page.colorbar(image, ax=list(panels[: len(tables)]), label="cosine similarity", shrink=0.75)
        texts = [f"{system}: {_as_sentence(table, names)}" for system, table in tables.items()]
        return as_figure(page, labels, "Heat maps of cosine similarities between instructions. " + " ".join(texts))


def _write_cells(axes: Axes, table: Estimate, paper: Sequence[Sequence[float]] | None) -> None:
    for (i, j), value in np.ndenumerate(table.values):
        colour = "black" if value > 0.55 else "white"
        axes.text(j, i - 0.16, _number(value, 3), ha="center", va="center", color=colour, fontsize=11)
        decimals = 3 if value > 0.95 else 2  # near 1, the third is what counts
        ends = (_number(end[i, j], decimals) for end in (table.low, table.high))
        lines = [] if i == j else [" to ".join(ends)]
        lines += [] if paper is None or i == j else [f"paper {_number(paper[i][j], 3)}"]
        axes.text(j, i + 0.22, "\n".join(lines), ha="center", va="center", color=colour, fontsize=7)


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}".replace("-", "−")


def _as_sentence(table: Estimate, names: Sequence[str]) -> str:
    pairs = [(i, j) for i in range(len(names)) for j in range(i)]
    return ", ".join(f"{names[j]}-{names[i]} {table.values[i, j]:.3f}" for i, j in pairs) + "."


def bar_chart(groups: Sequence[str], series: Sequence[Series], labels: Labels, *, axis: str) -> Figure:
    """Horizontal bars with 95 % intervals, and diamonds where the paper's numbers are.

    Args:
        groups: Names of the groups (tasks, instructions), from top to bottom.
        series: Systems, each with a value for each group.
        labels: What stands around the figure.
        axis: What the values are, with unit: `WER (%)`.

    Raises:
        ValueError: A series has not one value for each group.
        UnsupportedError: matplotlib is not installed.
    """
    for one in series:
        _check_lengths(one, len(groups))
    thickness = 1 / (len(series) + 0.8)  # of a bar with its gap; a group of them with a wider gap takes 1
    with drawing(7.5, 0.26 * len(groups) / thickness + 1.4) as page:
        axes = page.subplots()
        for number, one in enumerate(series):
            _draw_bars(axes, one, series_style(number)[0], number * thickness, thickness)
        middle = (len(series) - 1) / 2 * thickness
        axes.set_yticks(np.arange(len(groups)) + middle, groups)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(groups) - 1 + 2 * middle + 0.75 * thickness, -0.75 * thickness)
        axes.set_xlabel(axis)
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.7)
        axes.set_axisbelow(True)
        _write_values(axes, series, thickness)
        page.legend(handles=_bar_legend(series), loc="outside lower center", ncols=min(4, len(series) + 1))
        return as_figure(page, labels, f"Bar chart of {axis}. " + " ".join(_as_text(one, groups) for one in series))


def _check_lengths(series: Series, n: int) -> None:
    for field in (series.values, series.low, series.high, series.paper):
        if len(field) != n and (field or field is series.values):
            raise ValueError(
                f"`series` must have a value for each of {n} groups, but {series.name!r} has {len(field)}."
            )


def _extent(series: Iterable[Series]) -> tuple[float, float]:
    """Range of all that is drawn, zero included."""
    numbers = [v for s in series for row in (s.values, s.low, s.high, s.paper) for v in row if v is not None]
    return min([0.0, *numbers]), max([0.0, *numbers])


def _draw_bars(axes: Axes, series: Series, colour: str, offset: float, thickness: float) -> None:
    for group, value in enumerate(series.values):
        y = group + offset
        low, high = (row[group] if row else None for row in (series.low, series.high))
        paper = series.paper[group] if series.paper else None
        if value is not None:
            axes.barh(y, value, height=0.88 * thickness, color=colour)
        if low is not None and high is not None:
            axes.plot([low, high], [y, y], color="black", linewidth=1.1, marker="|", markersize=5, mew=1.1)
        if paper is not None:
            axes.plot(paper, y, marker="D", markersize=5.5, markerfacecolor="white", markeredgecolor="black", mew=1.1)


def _write_values(axes: Axes, series: Sequence[Series], thickness: float) -> None:
    """The numbers, each at the end of its bar and clear of its interval and of the paper's sign."""
    lowest, highest = _extent(series)
    room = 0.13 * (highest - lowest or 1.0)
    axes.set_xlim(lowest - room * (lowest < 0), highest + room)
    decimals = 1 if highest > 2 else 2
    for number, one in enumerate(series):
        for group, value in enumerate(one.values):
            if value is None:
                continue
            side = -1 if value < 0 else 1
            ends = [row[group] for row in (one.low, one.high) if row]
            end = side * max(side * v for v in [value, *ends] if v is not None)
            paper = one.paper[group] if one.paper else None
            if paper is not None and -0.1 * room < side * (paper - end) < 0.6 * room:
                end = paper
            axes.annotate(
                _number(value, decimals),
                (end, group + number * thickness),
                (6 * side, 0),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center",
                fontsize=8,
            )


def _bar_legend(series: Sequence[Series]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=series_style(i)[0], label=one.name) for i, one in enumerate(series)]
    if any(one.low for one in series):
        handles.append(Line2D([], [], color="black", marker="|", linewidth=1.1, label="95 % interval"))
    if any(one.paper for one in series):
        style = {"markerfacecolor": "white", "markeredgecolor": "black"}
        handles.append(Line2D([], [], marker="D", linestyle="", label="paper", **style))  # type: ignore[arg-type]
    return handles


def _as_text(series: Series, groups: Sequence[str]) -> str:
    return f"{series.name}: " + ", ".join(f"{g} {v:.3g}" for g, v in zip(groups, series.values) if v is not None) + "."


def line_charts(curves: Sequence[Curve], labels: Labels, *, over: Literal["steps", "samples"] = "steps") -> Figure:
    """Metrics against training, a panel for each metric, with bands for the 95 % intervals.

    Args:
        curves: One or more systems' curves, of one or more metrics.
        labels: What stands around the figure.
        over: What runs to the right; for `samples` every curve needs `samples_per_step`.

    Raises:
        ValueError: There are no curves, or one lacks its `samples_per_step`.
        UnsupportedError: matplotlib is not installed.

    Source: paper, figure 4.
    """
    lacking = [curve.system for curve in curves if over == "samples" and curve.samples_per_step is None]
    if not curves or lacking:
        raise ValueError(f"`curves` must not be empty and must have `samples_per_step`, but lack it for {lacking}.")
    metrics = list(dict.fromkeys(curve.metric for curve in curves))
    systems = list(dict.fromkeys(curve.system for curve in curves))
    columns = min(2, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    with drawing(0.4 + 4.4 * columns, 0.7 + 3.1 * rows) as page:
        from matplotlib.ticker import EngFormatter

        panels = page.subplots(rows, columns, squeeze=False).ravel()
        for axes, metric in zip(panels, metrics):
            for curve in curves:
                if curve.metric == metric:
                    _draw_curve(axes, curve, systems.index(curve.system), over)
            axes.set_title(metric)
            axes.set_xlabel(f"training {over}")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.grid(color="#DDDDDD", linewidth=0.7)
        for axes in panels[len(metrics) :]:
            axes.set_visible(False)
        if len(systems) > 1:
            handles = {line.get_label(): line for axes in panels for line in axes.get_lines()}
            page.legend(handles=[handles[s] for s in systems], loc="outside lower center", ncols=min(4, len(systems)))
        return as_figure(page, labels, " ".join(_curve_text(curve) for curve in curves))


def _draw_curve(axes: Axes, curve: Curve, number: int, over: str) -> None:
    colour, marker = series_style(number)
    scale = curve.samples_per_step if over == "samples" and curve.samples_per_step else 1
    x = [scale * point.step for point in curve.points]
    axes.plot(
        x, [p.value for p in curve.points], color=colour, marker=marker, markersize=4.5, label=curve.system, lw=1.6
    )
    bands = [(at, p.low, p.high) for at, p in zip(x, curve.points) if p.low is not None and p.high is not None]
    if bands:
        at, low, high = zip(*bands)
        axes.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)


def _curve_text(curve: Curve) -> str:
    if not curve.points:
        return f"{curve.metric} of {curve.system}: nothing."
    first, last = curve.points[0], curve.points[-1]
    return (
        f"{curve.metric} of {curve.system}: {first.value:.3g} at step {first.step}, {last.value:.3g} at {last.step}, "
        f"near its best from step {curve.settled_step()}."
    )
