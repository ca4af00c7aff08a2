"""Is this frame speech? webrtcvad, and a small network that keeps it from taking noise for a voice."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from blsp.audio import SAMPLING_RATE

FRAME_MS = 30
FRAME_SAMPLES = SAMPLING_RATE * FRAME_MS // 1000  # 480: the longest frame that webrtcvad takes

Frame = npt.NDArray[np.int16]
"""30 ms of mono audio at 16 kHz, int16 (480,)."""

DEFAULT_MODE = 3
START_PROBABILITIES = (0.2, 0.3, 0.4, 0.45)
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


class WebRtcVad:
    """Google's Gaussian-mixture detector and the speech gate: a frame is speech if both say so.

    The gate asks for more where nobody spoke in the last 300 ms than within an utterance.

    Args:
        mode: 0 takes most sounds for speech, 3 fewest.
        gated: Ask the gate too; without it rain, music and loud hiss pass in every mode.

    Raises:
        ValueError: `mode` is not 0, 1, 2 or 3.
    """

    def __init__(self, mode: int = DEFAULT_MODE, *, gated: bool = True) -> None:
        if mode not in range(4):
            raise ValueError(f"`mode` must be 0, 1, 2 or 3, but is {mode} instead.")
        from blsp.speech_gate import SpeechGate

        self._mode = mode
        self._gate = SpeechGate() if gated else None
        self.reset()

    def reset(self) -> None:
        """Forget what was heard, as at the start of a recording."""
        import webrtcvad

        self._detector = webrtcvad.Vad(self._mode)
        self._since_speech = _STAY_FRAMES  # frames
        if self._gate is not None:
            self._gate.reset()

    def is_speech(self, frame: Frame) -> bool:
        """Whether a frame, int16 (480,), holds speech.

        Raises:
            ValueError: The frame is not int16 (480,).
        """
        if frame.dtype != np.int16 or frame.shape != (FRAME_SAMPLES,):
            raise ValueError(f"`frame` must be int16 ({FRAME_SAMPLES},), but is {frame.dtype} {frame.shape} instead.")
        # Both hear every frame, as both go by what they heard before.
        heard = bool(self._detector.is_speech(frame.tobytes(), SAMPLING_RATE))
        is_speech = self._is_likely(frame) and heard
        self._since_speech = 0 if is_speech else self._since_speech + 1
        return is_speech

    def _is_likely(self, frame: Frame) -> bool:
        if self._gate is None:
            return True
        factor = _STAY_FACTOR if self._since_speech < _STAY_FRAMES else 1.0
        return self._gate.probability(frame) >= factor * START_PROBABILITIES[self._mode]


def level_dbfs(frame: Frame) -> float:
    """Root-mean-square level in dB relative to full scale, at least -96: int16 (N,) -> float."""
    if len(frame) == 0:
        return -96.0
    power = float(np.square(frame.astype(np.float32) / 32_768.0).mean())
    return max(-96.0, 10.0 * float(np.log10(power + 1e-12)))
