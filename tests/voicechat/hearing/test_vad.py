"""The detectors that a user chooses from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blsp.audio.read import load_audio
from blsp.audio.speech_detector import FrameClassifier, SpeechDetector
from blsp.audio.speech_gate import FRAME_SAMPLES
from blsp.audio.waveform import SAMPLING_RATE, to_pcm16
from voicechat.hearing.vad import WebRtcVad, make_detector

CLIP = Path(__file__).parents[2] / "assets/capital_of_france.flac"


def verdicts(waveform: np.ndarray, vad: FrameClassifier) -> list[bool]:
    samples = to_pcm16(waveform)
    starts = range(0, len(samples) - FRAME_SAMPLES + 1, FRAME_SAMPLES)
    return [vad.is_speech(samples[start : start + FRAME_SAMPLES]) for start in starts]


def test_either_detector_can_be_chosen() -> None:
    assert isinstance(make_detector(), SpeechDetector)
    vad = make_detector("webrtcvad", 2)
    assert isinstance(vad, WebRtcVad)
    heard = verdicts(load_audio(CLIP), vad)
    assert sum(heard) > len(heard) / 4
    silence = np.zeros(SAMPLING_RATE, np.float32)
    vad.reset()
    assert not any(verdicts(silence, vad))
    with pytest.raises(ValueError, match="`mode` must be 0, 1, 2 or 3, but is 4 instead"):
        make_detector("webrtcvad", 4)
    with pytest.raises(ValueError, match=r"`frame` must be int16 \(480,\), but is"):
        vad.is_speech(np.zeros(100, np.int16))
