"""Is this frame speech? webrtcvad, with a gate at the noise floor."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import numpy as np
import numpy.typing as npt

from blsp.audio import SAMPLING_RATE

FRAME_MS = 30
FRAME_SAMPLES = SAMPLING_RATE * FRAME_MS // 1000  # 480: the longest frame that webrtcvad takes

Frame = npt.NDArray[np.int16]
"""30 ms of mono audio at 16 kHz, int16 (480,)."""

DEFAULT_MODE = 2
_FLOOR_FRAMES = 1500 // FRAME_MS
"""Frames over which the noise floor is the quietest one: a talker pauses for breath more often than that."""
_SILENCE_DBFS = -60.0
"""Quieter than any speech; the floor that is assumed before anything was heard."""


class FrameClassifier(Protocol):
    """Tells speech from everything else, frame by frame."""

    def is_speech(self, frame: Frame) -> bool:
        """Whether a frame, int16 (480,), holds speech."""
        ...

    def reset(self) -> None:
        """Forget what was heard, as at the start of a recording."""
        ...


class WebRtcVad:
    """Google's Gaussian-mixture detector, whose verdict counts only where the frame rises above the noise floor.

    Args:
        mode: 0 hears speech most readily, 3 least. Modes 0 and 1 take white noise for speech.
        gate_db: How far above the noise floor a frame must be.

    Raises:
        ValueError: `mode` is not 0, 1, 2 or 3.
    """

    def __init__(self, mode: int = DEFAULT_MODE, *, gate_db: float = 6.0) -> None:
        if mode not in range(4):
            raise ValueError(f"`mode` must be 0, 1, 2 or 3, but is {mode} instead.")
        self._mode, self._gate_db = mode, gate_db
        self.reset()

    def reset(self) -> None:
        """Forget what was heard, as at the start of a recording."""
        import webrtcvad

        self._detector = webrtcvad.Vad(self._mode)
        self._levels: deque[float] = deque([_SILENCE_DBFS] * _FLOOR_FRAMES, maxlen=_FLOOR_FRAMES)

    def is_speech(self, frame: Frame) -> bool:
        """Whether a frame, int16 (480,), holds speech.

        Raises:
            ValueError: The frame is not int16 (480,).
        """
        if frame.dtype != np.int16 or frame.shape != (FRAME_SAMPLES,):
            raise ValueError(f"`frame` must be int16 ({FRAME_SAMPLES},), but is {frame.dtype} {frame.shape} instead.")
        level = level_dbfs(frame)
        self._levels.append(level)
        heard = bool(self._detector.is_speech(frame.tobytes(), SAMPLING_RATE))  # always fed: it adapts to the noise
        return heard and level >= max(_SILENCE_DBFS, min(self._levels) + self._gate_db)


def level_dbfs(frame: Frame) -> float:
    """Root-mean-square level in dB relative to full scale, at least -96: int16 (N,) -> float."""
    if len(frame) == 0:
        return -96.0
    power = float(np.square(frame.astype(np.float32) / 32_768.0).mean())
    return max(-96.0, 10.0 * float(np.log10(power + 1e-12)))
