"""Quality against training: what more data, or more steps, have brought."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blsp.errors import DataError
from blsp.json_lines import read_lines
from blsp.shown import shown

METRICS_NAME = "metrics.jsonl"


@dataclass(frozen=True)
class CurvePoint:
    """Quality after some training."""

    step: int
    """Updates so far."""
    value: float
    """The metric."""
    low: float | None = None
    """Lower end of its 95 % interval, where it has one."""
    high: float | None = None
    """Upper end."""


@dataclass(frozen=True)
class Curve:
    """One metric of one system over its training."""

    system: str
    """Name of the system."""
    metric: str
    """Name of the metric, and of its data where that is not clear."""
    points: tuple[CurvePoint, ...]
    """By rising step."""
    higher_is_better: bool = False
    """False for losses and error rates."""
    samples_per_step: int | None = None
    """Size of the global batch: makes steps into training samples."""

    def settled_step(self, tolerance: float = 0.05) -> int:
        """First step from which the metric stays near the best value that it ever has.

        Args:
            tolerance: How near, as a share of the way from the first value to the best.

        Raises:
            ValueError: The curve has no points.
        """
        if not self.points:
            raise ValueError(f"`points` must not be empty, but {self.metric} of {self.system} has none.")
        sign = 1 if self.higher_is_better else -1
        values = [sign * point.value for point in self.points]
        needed = max(values) - tolerance * (max(values) - values[0])
        below = [i for i, value in enumerate(values) if value < needed]
        # A curve that ends below its best has settled where it is, at its last point.
        return self.points[min(below[-1] + 1 if below else 0, len(values) - 1)].step


def validation_curves(
    run: Path, system: str, *, higher_is_better: Sequence[str] = (), samples_per_step: int | None = None
) -> dict[str, Curve]:
    """What a training run noted about held-out data, as a curve for each metric.

    Args:
        run: A run folder, or its `metrics.jsonl`. The run may be still going on.
        system: Name of the system.
        higher_is_better: Metrics of which more is better; of losses and error rates less is.
        samples_per_step: Size of the global batch, where it is to be shown.

    Returns:
        Curves by the metric's name (`loss` ...), in the order in which metrics appear.

    Raises:
        DataError: There is no such file, a line of it is damaged, or nothing was validated.
    """
    path = run / METRICS_NAME if run.is_dir() else run
    points: dict[str, dict[int, CurvePoint]] = {}
    for line in _read_lines(path):
        if line.get("kind") != "validation":
            continue
        step = int(line["step"])
        for metric, value in _numbers(line).items():
            points.setdefault(metric, {})[step] = CurvePoint(step, value)  # a later line is of a run taken up again
    if not points:
        raise DataError(
            f"{path} has no validation lines.", hint="Train with `training.validate_every` and a validation manifest."
        )
    return {
        metric: Curve(system, metric, _sorted(found.values()), metric in higher_is_better, samples_per_step)
        for metric, found in points.items()
    }


def _sorted(points: Any) -> tuple[CurvePoint, ...]:
    return tuple(sorted(points, key=lambda point: point.step))


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a line that have a finite number."""
    return {
        name: float(value)
        for name, value in line.items()
        if name not in {"kind", "step"} and isinstance(value, (int, float)) and math.isfinite(value)
    }


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of the metrics, with their steps; a last line that is still being written is left out."""
    hint = "Name the run folder of a training stage."
    for number, line in read_lines(path, hint=hint, is_being_written=True):
        try:
            int(line["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number} must have a step, but holds {shown(line)}.") from error
        yield line
