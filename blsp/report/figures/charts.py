"""Charts of scores: bars with intervals, and quality against training."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from blsp.analysis.data_size import Curve
from blsp.evaluation.scores import Figure
from blsp.report.figures.drawing import Labels, as_figure, bar_style, drawing, format_number, series_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    style: int | None = None
    """Number of its colour, so that a system has the same one in all charts; by default its place in this chart."""


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
            _draw_bars(axes, one, _style(one, number), number * thickness, thickness)
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


def _style(series: Series, place: int) -> dict[str, Any]:
    return bar_style(place if series.style is None else series.style)


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


def _draw_bars(axes: Axes, series: Series, style: dict[str, Any], offset: float, thickness: float) -> None:
    for group, value in enumerate(series.values):
        y = group + offset
        low, high = (row[group] if row else None for row in (series.low, series.high))
        paper = series.paper[group] if series.paper else None
        if value is not None:
            axes.barh(y, value, height=0.88 * thickness, **style)
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
                format_number(value, decimals),
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

    handles: list[Any] = [Patch(**_style(one, i), label=one.name) for i, one in enumerate(series)]
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
