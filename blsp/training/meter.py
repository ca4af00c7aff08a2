"""How fast training goes, and what its loss is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from blsp.training.distributed.processes import gather_from_processes


@dataclass
class Window:
    """Sums over some steps."""

    seconds: float = 0.0
    """Time they took."""
    waited: float = 0.0
    """Part of it in which the main process waited for data."""
    samples: int = 0
    units: int = 0
    """What the loss is a mean over, skipped steps included."""
    loss_total: float = 0.0
    loss_units: int = 0
    """Units of the steps that were not skipped."""
    operations: float = 0.0
    """Floating-point operations of the LLM in this process, where they are counted."""
    parts: dict[str, tuple[float, int]] = field(default_factory=dict)
    """For each part of the loss its sum and its units, in this process only."""

    def add_loss(self, total: float, units: int, parts: Mapping[str, tuple[float, int]]) -> None:
        """Note the sums of a step that was not skipped."""
        self.loss_total += total
        self.loss_units += units
        for name, (part, count) in parts.items():
            before = self.parts.get(name, (0.0, 0))
            self.parts[name] = (before[0] + part, before[1] + count)

    def add_time(self, seconds: float, waited: float, samples: int, units: int) -> None:
        """Note how long a step took, and how much it did."""
        self.seconds += seconds
        self.waited += waited
        self.samples += samples
        self.units += units

    @property
    def loss(self) -> float:
        """Mean loss of the steps that were not skipped; NaN if all were."""
        return self.loss_total / self.loss_units if self.loss_units else float("nan")

    def rates(self, peak: float | None = None) -> dict[str, float]:
        """Samples and tokens per second, and the share of the time in which the model did not wait for data.

        Args:
            peak: Operations per second at best; with it, and where operations are counted, also the share of them
                that was reached.
        """
        seconds = max(self.seconds, 1e-9)
        rates = {
            "samples_per_second": self.samples / seconds,
            "tokens_per_second": self.units / seconds,
            "utilisation": 1 - self.waited / seconds,
        }
        return (
            rates if not peak or not self.operations else {**rates, "share_of_peak": self.operations / seconds / peak}
        )

    def mean_parts(self) -> dict[str, float]:
        """Mean of each part of the loss over all processes, which all call this."""
        sums: dict[str, tuple[float, int]] = {}
        for parts in gather_from_processes(self.parts):
            for name, (part, count) in parts.items():
                before = sums.get(name, (0.0, 0))
                sums[name] = (before[0] + part, before[1] + count)
        return {name: part / count for name, (part, count) in sorted(sums.items()) if count}
