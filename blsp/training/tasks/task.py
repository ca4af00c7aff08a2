"""What the training loop trains, seen from the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

MicroBatch = Sequence[int]
"""Sample numbers that go through the model together."""
Step = Sequence[MicroBatch]
"""Micro-batches whose gradients make one update: together they are the global batch."""


class Batch(Protocol):
    """A loaded micro-batch."""

    @property
    def count(self) -> int:
        """Units that the loss is a mean over (answer tokens, transcript tokens); known before the forward pass."""

    def to(self, device: Any) -> Batch:
        """The same with its tensors on `device`."""


@dataclass(frozen=True)
class LossSum:
    """What a task's module gives for one micro-batch."""

    total: Tensor
    """Loss summed over the batch's `count` units, float32 (), to be differentiated."""
    parts: Mapping[str, Tensor]
    """Other sums over the same units, for the log (detached), e.g. cross entropy and KL apart."""
    operations: float = 0.0
    """Floating-point operations of the LLM, there and back, without those on padding; 0 where nobody counts them."""


class TrainingTask(Protocol):
    """What is trained, on what, and how it is judged."""

    module: nn.Module
    """forward(batch) -> LossSum. Its parameters with `requires_grad` are trained and saved; all others are frozen."""

    def epoch(self, epoch: int) -> Sequence[Step]:
        """The steps of one epoch: a function of the epoch's number and the task's seed, not of the processes."""

    def load(self, microbatch: MicroBatch, epoch: int) -> Batch:
        """Read one micro-batch, on the CPU. Called from background threads; the same arguments give the same batch."""

    def validate(self) -> dict[str, float]:
        """Scores on held-out data with the module's present weights; `loss` is among them, and lower is better.

        Every process calls it; each may do its share, and all get the same result.
        """

    def show(self, n: int) -> list[dict[str, str]]:
        """A few held-out samples with what the model generates for them now: `{"reference", "hypothesis", ...}`."""

    def save(self, folder: Path) -> None:
        """Write what the next stage loads (an adapter checkpoint, an LLM) from the module's present weights."""
