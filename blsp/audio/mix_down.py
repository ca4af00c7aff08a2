"""From the samples of a file to a mono signal that can be trusted: scale, offset and phase.

What is as it should be passes unchanged.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

FloatBlock = npt.NDArray[np.float32]

_MEMORY_SECONDS = 2.0
"""How far back the sound reaches by which offset and phase are judged."""
_FADE_SECONDS = 0.05
_MIN_OFFSET, _MIN_OFFSET_RATIO = 1e-3, 0.25
"""An offset below either, absolute or in proportion to the sound, disturbs nothing and is left alone."""
_CANCELLED = 0.5
"""The power that the sum of the channels must have, in proportion to what it has when they have nothing in common."""
_SILENT_POWER = 1e-9
"""A channel below this (-90 dB) holds nothing, and takes no part in the mean."""
_PEAK_WINDOW_SECONDS = 0.02
_LOUD_WINDOWS = 5
"""How many windows must reach a level before it counts as one of the recording, not as a fault in it."""
_FAULT = 4.0
"""How far above that level a sample must be to be a fault."""
_FAINT, _FAINT_TARGET = 2.0**-12, 0.1
"""A peak below this cannot be speech at the usual scale, and the peak that such a recording is brought to."""


class Mixer:
    """Mixes the channels of consecutive blocks down to one.

    The mix is the mean of those in which there is anything. Where they cancel each other (one was recorded with its
    poles exchanged), it is the loudest of them alone: in that one, nothing is lost. A constant offset is taken away.

    Args:
        sampling_rate: Rate of what is pushed (Hz).
    """

    def __init__(self, sampling_rate: int) -> None:
        self._rate = sampling_rate
        self._n_samples = 0.0
        self._weights: npt.NDArray[np.float64] | None = None

    def push(self, block: FloatBlock) -> FloatBlock:
        """The next samples, float32 (N, channels), N >= 1, in [-1, 1] -> mono, float32 (N,)."""
        channels = block.shape[1]
        before = self._weights
        if before is None or len(before) != channels:
            self._n_samples, before = 0.0, None
            self._sums = np.zeros(channels)
            self._products = np.zeros((channels, channels))
            self._offsets = np.zeros(channels)
        self._remember(block)
        offsets_before = self._offsets
        self._weights, self._offsets = self._judge(before)
        if before is None:
            before, offsets_before = self._weights, self._offsets
        if not (self._offsets.any() or offsets_before.any()) and (before == self._weights).all():
            return _weighted(block, self._weights)
        new = _weighted(block - self._offsets.astype(np.float32), self._weights)
        old = _weighted(block - offsets_before.astype(np.float32), before)
        fade = np.ones(len(block), np.float32)
        n_fade = min(len(block), max(1, round(_FADE_SECONDS * self._rate)))
        fade[:n_fade] = np.linspace(0, 1, n_fade, dtype=np.float32)
        return (old + fade * (new - old)).astype(np.float32)

    def _remember(self, block: FloatBlock) -> None:
        decay = float(np.exp(-len(block) / (self._rate * _MEMORY_SECONDS)))
        self._n_samples = decay * self._n_samples + len(block)
        self._sums = decay * self._sums + block.sum(axis=0, dtype=np.float64)
        self._products = decay * self._products + (block.T @ block).astype(np.float64)

    def _judge(self, before: npt.NDArray[np.float64] | None) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Weights of the channels, and their offsets: float64 (channels,)."""
        means = self._sums / self._n_samples
        covariance = self._products / self._n_samples - np.outer(means, means)
        powers = np.maximum(np.diag(covariance), 0.0)
        is_offset = (np.abs(means) > _MIN_OFFSET) & (np.abs(means) > _MIN_OFFSET_RATIO * np.sqrt(powers))
        offsets = np.where(is_offset, means, 0.0)
        if covariance.sum() >= _CANCELLED * powers.sum():  # of channels with nothing in common, both are the same
            heard = powers > _SILENT_POWER if (powers > _SILENT_POWER).any() else np.ones(len(powers), bool)
            return heard / heard.sum(), offsets
        loudest = int(powers.argmax())
        if before is not None and before.max() == 1.0 and powers[before.argmax()] > 0.5 * powers[loudest]:
            loudest = int(before.argmax())  # do not go to and fro between two that are alike
        return np.eye(len(powers))[loudest], offsets


def _weighted(block: FloatBlock, weights: npt.NDArray[np.float64]) -> FloatBlock:
    mean: FloatBlock = block.mean(axis=1, dtype=np.float32, where=weights > 0)
    return mean


def mix_down(block: FloatBlock, sampling_rate: int) -> FloatBlock:
    """A whole signal in one go: float32 (N, channels) -> (N,), clipped to [-1, 1]. See `Mixer`."""
    return Mixer(sampling_rate).push(block.clip(-1.0, 1.0)) if len(block) else np.zeros(0, np.float32)


def scale_of(blocks: Iterable[tuple[FloatBlock, int]]) -> float:
    """What to divide floating-point samples by, so that they lie in [-1, 1].

    Such files may hold any values: those of 16-bit integers, or a mix that is too loud. A recording whose peak lies in
    [-1, 1] is left as it is, unless it is fainter than speech can be; a few samples beyond are a fault, to be clipped.

    Args:
        blocks: The whole signal: samples, float32 (N, channels), with their sampling rate (Hz).
    """
    loudest = [0.0] * _LOUD_WINDOWS
    for block, sampling_rate in blocks:
        peaks = np.nan_to_num(np.abs(block).max(axis=1), nan=0.0, posinf=0.0)
        window = max(1, round(_PEAK_WINDOW_SECONDS * sampling_rate))
        maxima = np.maximum.reduceat(peaks, np.arange(0, len(peaks), window))
        loudest = heapq.nlargest(_LOUD_WINDOWS, [*loudest, *maxima.tolist()])
    peak = loudest[0] if loudest[0] <= _FAULT * loudest[-1] else loudest[-1] or loudest[0]
    if peak > 1.0:
        return peak
    return peak / _FAINT_TARGET if 0 < peak < _FAINT else 1.0
