"""Is this frame speech? Silero's detector, which hears every recording about as loud as people speak."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from blsp.audio.speech_gate import FRAME_SAMPLES, LevelControl, SileroVad
from blsp.audio.waveform import SAMPLING_RATE, from_pcm16

FRAME_MS = 1000 * FRAME_SAMPLES // SAMPLING_RATE  # 30

Frame = npt.NDArray[np.int16]
"""30 ms of mono audio at 16 kHz, int16 (480,)."""

DEFAULT_MODE = 3
START_PROBABILITIES = (0.2, 0.3, 0.4, 0.5)
"""For each mode, how likely the network must find speech where there was none."""
_STAY_FACTOR = 1 / 3
"""So much of it is enough soon after speech: soft syllables within a sentence must not be lost."""
_STAY_FRAMES = 10  # 300 ms


class FrameClassifier(Protocol):
    """Tells speech from everything else, frame by frame."""

    def is_speech(self, frame: Frame) -> bool:
        """Whether a frame, int16 (480,), holds speech."""
        ...

    def reset(self) -> None:
        """Forget what was heard, as at the start of a recording."""
        ...


class Hysteresis:
    """Probabilities -> verdicts: asks for more where nobody spoke in the last 300 ms than within an utterance.

    Args:
        threshold: How likely speech must be where there was none.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._since_speech = _STAY_FRAMES  # frames

    def is_speech(self, probability: float) -> bool:
        """The verdict on the next frame."""
        factor = _STAY_FACTOR if self._since_speech < _STAY_FRAMES else 1.0
        is_speech = probability >= factor * self._threshold
        self._since_speech = 0 if is_speech else self._since_speech + 1
        return is_speech


class SpeechDetector:
    """Silero's network on a signal whose level was evened out, with `Hysteresis`.

    Args:
        mode: 0 takes most sounds for speech, 3 fewest.

    Raises:
        ValueError: `mode` is not 0, 1, 2 or 3.
    """

    def __init__(self, mode: int = DEFAULT_MODE) -> None:
        check_mode(mode)
        self._threshold = START_PROBABILITIES[mode]
        self._network = SileroVad()
        self.reset()

    def reset(self) -> None:
        """Forget what was heard, as at the start of a recording."""
        self.probability = 0.0
        """How likely the last frame was speech."""
        self._verdict = Hysteresis(self._threshold)
        self._level = LevelControl()
        self._network.reset()

    def is_speech(self, frame: Frame) -> bool:
        """Whether a frame, int16 (480,), holds speech.

        Raises:
            ValueError: The frame is not int16 (480,).
        """
        check_frame(frame)
        self.probability = self._network.probability(self._level.apply(from_pcm16(frame)))
        return self._verdict.is_speech(self.probability)


def check_mode(mode: int) -> None:
    """Refuse a mode that no detector has.

    Raises:
        ValueError: `mode` is not 0, 1, 2 or 3.
    """
    if mode not in range(len(START_PROBABILITIES)):
        raise ValueError(f"`mode` must be 0, 1, 2 or 3, but is {mode} instead.")


def check_frame(frame: Frame) -> None:
    """Refuse what is not a frame.

    Raises:
        ValueError: It is not int16 (480,).
    """
    if frame.dtype != np.int16 or frame.shape != (FRAME_SAMPLES,):
        raise ValueError(f"`frame` must be int16 ({FRAME_SAMPLES},), but is {frame.dtype} {frame.shape} instead.")


def level_dbfs(frame: Frame) -> float:
    """Root-mean-square level in dB relative to full scale, at least -96: int16 (N,) -> float."""
    if len(frame) == 0:
        return -96.0
    power = float(np.square(frame.astype(np.float32) / 32_768.0).mean())
    return max(-96.0, 10.0 * float(np.log10(power + 1e-12)))
