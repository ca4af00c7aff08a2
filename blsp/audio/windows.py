"""Waveforms longer than an encoder takes (30 s), cut into windows: the one place where it is done."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from blsp.audio.log_mel import MIN_SAMPLES, WINDOW_SAMPLES


def count_windows(waveform: np.ndarray) -> int:
    """Windows of at most 30 s in a waveform, float32 (N,)."""
    return math.ceil(len(waveform) / WINDOW_SAMPLES)


def window_batches(waveforms: Sequence[np.ndarray]) -> Iterator[list[np.ndarray]]:
    """The windows of waveforms, in order, as many at once as there are waveforms.

    So whatever is computed from them, such as scores of a whole vocabulary, takes memory by the number of waveforms,
    not by their lengths.

    Raises:
        ValueError: A waveform is empty.
    """
    windows = [window for waveform in waveforms for window in cut_into_windows(waveform)]
    for start in range(0, len(windows), len(waveforms)):
        yield windows[start : start + len(waveforms)]


def cut_into_windows(waveform: np.ndarray) -> list[np.ndarray]:
    """Cut a waveform into equal stretches that the encoder can take, none too short for a spectrum.

    Raises:
        ValueError: It is empty.
    """
    if len(waveform) == 0:
        raise ValueError("`waveforms` must hold samples, but one is empty.")
    n_windows = count_windows(waveform)
    if n_windows > 1:
        return np.array_split(waveform, n_windows)
    return [np.pad(waveform, (0, max(0, MIN_SAMPLES - len(waveform))))]
