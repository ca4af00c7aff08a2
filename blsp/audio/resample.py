"""A signal of any rate -> the same at 16 kHz, piece by piece."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blsp.audio.waveform import SAMPLING_RATE, Waveform


class Resampler:
    """Brings consecutive pieces of a mono signal to 16 kHz; the pieces join as if resampled in one go.

    Args:
        sampling_rate: Rate of what is pushed (Hz).
    """

    def __init__(self, sampling_rate: int) -> None:
        import soxr

        self._stream = None if sampling_rate == SAMPLING_RATE else soxr.ResampleStream(sampling_rate, SAMPLING_RATE, 1)

    def push(self, samples: npt.NDArray[np.float32]) -> Waveform:
        """Take the next samples, float32 (N,); return what is ready at 16 kHz, float32 (M,), perhaps empty."""
        return samples if self._stream is None else self._clipped(samples, last=False)

    def flush(self) -> Waveform:
        """Return what the filter still holds, float32 (M,); nothing may be pushed afterwards."""
        return np.zeros(0, np.float32) if self._stream is None else self._clipped(np.zeros(0, np.float32), last=True)

    def _clipped(self, samples: npt.NDArray[np.float32], *, last: bool) -> Waveform:
        assert self._stream is not None
        resampled: npt.NDArray[np.float32] = self._stream.resample_chunk(samples, last=last)
        return resampled.clip(-1.0, 1.0)  # the filter overshoots at full scale
