"""Is this frame speech? The detectors that a user chooses from: Silero's, which is the library's, or webrtcvad."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blsp.audio.speech_detector import DEFAULT_MODE, Frame, FrameClassifier, SpeechDetector, check_frame, check_mode
from blsp.audio.waveform import SAMPLING_RATE

if TYPE_CHECKING:
    from voicechat.settings import Detector


class WebRtcVad:
    """Google's Gaussian-mixture detector: a tenth of Silero's work, for machines that have no more.

    It takes rain, music and loud hiss for speech in every mode, and misses more of quick and quiet speech.

    Args:
        mode: 0 takes most sounds for speech, 3 fewest.

    Raises:
        ValueError: `mode` is not 0, 1, 2 or 3.
    """

    def __init__(self, mode: int = DEFAULT_MODE) -> None:
        check_mode(mode)
        self._mode = mode
        self.reset()

    def reset(self) -> None:
        """Forget what was heard, as at the start of a recording."""
        import webrtcvad

        self._detector = webrtcvad.Vad(self._mode)

    def is_speech(self, frame: Frame) -> bool:
        """Whether a frame, int16 (480,), holds speech.

        Raises:
            ValueError: The frame is not int16 (480,).
        """
        check_frame(frame)
        return bool(self._detector.is_speech(frame.tobytes(), SAMPLING_RATE))


def make_detector(name: Detector = "silero", mode: int = DEFAULT_MODE) -> FrameClassifier:
    """A detector by its name in the settings.

    Raises:
        ValueError: `mode` is not 0, 1, 2 or 3.
    """
    return SpeechDetector(mode) if name == "silero" else WebRtcVad(mode)
