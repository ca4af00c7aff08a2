"""Which samples go through the model together: steps of an exact size, made of micro-batches with little padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from blsp.training.task import Step


@dataclass(frozen=True)
class BatchingConfig:
    """How a global batch is cut into micro-batches."""

    max_seconds: float = 240.0
    """Speech that goes through the model at once, each utterance counted as long as its micro-batch's longest."""
    max_samples: int | None = None
    """Samples that go through the model at once, at most; null: as many as `max_seconds` allows."""
    bucket_pool: int = 16
    """Steps whose samples are sorted by length together: more means less padding, and less chance in a batch."""
    drop_last: bool = False
    """Leave out the last step of an epoch where it is not full."""

    def __post_init__(self) -> None:
        if self.max_seconds <= 0:
            raise ValueError(f"`max_seconds` must be above 0, but is {self.max_seconds} instead.")
        for name in ("max_samples", "bucket_pool"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, but is {value} instead.")


@dataclass(frozen=True)
class EpochSamples:
    """The n samples of one epoch."""

    numbers: npt.NDArray[np.int64]
    """What the micro-batches hold, int64 (n,), e.g. numbers of a `SampleSet`."""
    seconds: npt.NDArray[np.float32]
    """Lengths of their speech, float32 (n,)."""
    groups: npt.NDArray[np.int32]
    """Samples of one group read the same prompt and may share a micro-batch, int32 (n,)."""

    def __len__(self) -> int:
        return len(self.numbers)


def plan_epoch(
    samples: EpochSamples, config: BatchingConfig, *, batch_size: int, seed: int, epoch: int
) -> Sequence[Step]:
    """The steps of an epoch: every sample exactly once, `batch_size` samples a step but for the last one.

    Args:
        samples: Numbers, lengths and groups.
        config: Size of micro-batches.
        batch_size: Samples of a step (the global batch).
        seed: Start of the order.
        epoch: Number of the epoch; each has its own order.
    """
    raise NotImplementedError
