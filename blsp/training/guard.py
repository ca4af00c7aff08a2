"""Which steps are fit to change the weights, and when training has gone astray."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from blsp.errors import TrainingDivergedError

_MEMORY_STEPS = 50
"""Steps over which the usual size of a number is remembered."""
_WARMUP_STEPS = 10
"""Steps before a number can be called unusual."""


@dataclass
class _Level:
    """The first and the usual size of a number."""

    first: float = 0.0
    mean: float = 0.0
    count: int = 0

    def is_exceeded(self, value: float, factor: float) -> bool:
        return self.count >= _WARMUP_STEPS and value > factor * self.mean and value > self.first

    def note(self, value: float) -> None:
        if self.count == 0:
            self.first = value
        self.count += 1
        self.mean += (value - self.mean) / min(self.count, _MEMORY_STEPS)


@dataclass
class StepGuard:
    """Judges steps by their loss and gradient; equal numbers give equal judgements in every process.

    Args:
        explosion_factor: Times the usual loss or gradient norm from which a step is skipped; None: only if not finite.
        max_in_a_row: Skipped steps in a row that are too many.
    """

    explosion_factor: float | None
    max_in_a_row: int
    skipped: int = 0
    """Steps skipped so far."""
    in_a_row: int = 0
    """Steps skipped since the last good one."""
    _loss: _Level = field(default_factory=_Level)
    _norm: _Level = field(default_factory=_Level)

    def fault(self, loss: float, norm: float) -> str | None:
        """What is wrong with a step, or None if it may change the weights. The judgement counts.

        Args:
            loss: Mean loss over the global batch.
            norm: Length of its gradient before clipping.

        Raises:
            TrainingDivergedError: Too many steps in a row were bad.
        """
        fault = self._fault("loss", loss, self._loss) or self._fault("gradient norm", norm, self._norm)
        if fault is None:
            self.in_a_row = 0
            self._loss.note(loss)
            self._norm.note(norm)
            return None
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= self.max_in_a_row:
            raise TrainingDivergedError(
                f"Training has diverged: {self.in_a_row} steps in a row were skipped, the last since its {fault}.",
                hint="Lower training.learning_rate or raise training.warmup_steps, then start in a new folder.",
            )
        return fault

    def _fault(self, name: str, value: float, level: _Level) -> str | None:
        if not math.isfinite(value):
            return f"{name} is {value}"
        if self.explosion_factor is not None and level.is_exceeded(value, self.explosion_factor):
            return f"{name} is {value:.4g}, after {level.mean:.4g} on average"
        return None

    def state(self) -> dict[str, Any]:
        """What has been seen, to be put into a checkpoint."""
        return {
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "loss": asdict(self._loss),
            "norm": asdict(self._norm),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.skipped, self.in_a_row = state["skipped"], state["in_a_row"]
        self._loss, self._norm = _Level(**state["loss"]), _Level(**state["norm"])
