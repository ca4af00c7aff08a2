"""Which samples go through the model together: steps of an exact size, made of micro-batches with little padding."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from blsp.training.tasks.task import Step


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
    return EpochPlan(samples, config, batch_size, np.random.default_rng((seed, epoch)))


class EpochPlan(Sequence["Step"]):
    """Steps of one epoch, made when they are asked for: in memory is only the order of the samples. Thread-safe.

    The shuffled samples are divided into pools of whole steps. Only inside a pool are they sorted, so that a pool's
    steps can be made without the others.
    """

    def __init__(
        self, samples: EpochSamples, config: BatchingConfig, batch_size: int, rng: np.random.Generator
    ) -> None:
        n = len(samples)
        self._samples, self._config, self._batch_size = samples, config, batch_size
        self._n_steps = n // batch_size if config.drop_last else -(-n // batch_size)
        self._order = rng.permutation(n).astype(np.int32 if n < 2**31 else np.int64)[: self._n_steps * batch_size]
        self._seed = int(rng.integers(2**63))
        self._pool = functools.lru_cache(maxsize=4)(self._make_pool)

    def __len__(self) -> int:
        return self._n_steps

    @overload
    def __getitem__(self, index: int) -> Step: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Step]: ...

    def __getitem__(self, index: int | slice) -> Step | Sequence[Step]:
        """Micro-batches of a step."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"`index` must be a step of {len(self)}, but is {index} instead.")
        pool, step = divmod(index % len(self), self._config.bucket_pool)
        return self._pool(pool)[step]

    def _make_pool(self, pool: int) -> list[Step]:
        rng = np.random.default_rng((self._seed, pool))
        size = self._config.bucket_pool * self._batch_size
        chosen = self._order[pool * size : (pool + 1) * size]
        seconds, groups = self._samples.seconds[chosen], self._samples.groups[chosen]
        by_length = np.lexsort((-seconds, groups))
        pieces = _cut(seconds[by_length], groups[by_length], self._config, self._batch_size)
        steps = _fill_steps(pieces, self._batch_size, rng)
        numbers = self._samples.numbers[chosen[by_length]]
        return [tuple(tuple(numbers[start:end].tolist()) for start, end in step) for step in steps]


Piece = tuple[int, int]
"""Start and end of neighbours among sorted samples."""


def _cut(
    seconds: npt.NDArray[np.float32], groups: npt.NDArray[np.int32], config: BatchingConfig, batch_size: int
) -> list[Piece]:
    """Cut samples, sorted by group and from long to short, into micro-batches that keep within the limits."""
    limit = min(batch_size, config.max_samples or batch_size)
    ends = np.append(np.flatnonzero(np.diff(groups)) + 1, len(groups))  # of the groups
    end_of_group = np.repeat(ends, np.diff(ends, prepend=0)).tolist()
    pieces: list[Piece] = []
    start = 0
    while start < len(seconds):  # the first is the longest, and so tells how many fit
        fitting = int(config.max_seconds / max(1e-3, float(seconds[start])))
        end = min(start + max(1, min(limit, fitting)), end_of_group[start])
        pieces.append((start, end))
        start = end
    return pieces


def _fill_steps(pieces: Sequence[Piece], batch_size: int, rng: np.random.Generator) -> list[list[Piece]]:
    """Put micro-batches together to steps of `batch_size` samples, in random order; a border may divide one.

    A step that is not full comes last.
    """
    steps = [[piece] for piece in pieces if piece[1] - piece[0] == batch_size]
    rest = [piece for piece in pieces if piece[1] - piece[0] < batch_size]
    step: list[Piece] = []
    room = batch_size
    for i in rng.permutation(len(rest)):
        start, end = rest[i]
        while start < end:
            middle = min(end, start + room)
            step.append((start, middle))
            room -= middle - start
            start = middle
            if room == 0:
                steps.append(step)
                step, room = [], batch_size
    return [steps[i] for i in rng.permutation(len(steps))] + ([step] if step else [])
