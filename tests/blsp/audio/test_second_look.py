"""What may be speech is kept for a second look, and costs no memory that grows."""

from __future__ import annotations

import numpy as np
import pytest

from blsp.audio.endpointing import segment_stream
from blsp.audio.second_look import DOUBTFUL_PROBABILITY, MOST_KEPT, DoubtfulSpeech
from blsp.audio.speech_detector import Frame, SpeechDetector
from blsp.audio.speech_gate import FRAME_SAMPLES
from blsp.audio.waveform import SAMPLING_RATE

FAINT = DOUBTFUL_PROBABILITY + 0.1
"""Too little for the detector."""


class Scripted(SpeechDetector):
    """Finds in each frame the probability that its samples are, in hundredths."""

    def is_speech(self, frame: Frame) -> bool:
        self.probability = float(frame[0]) / 100
        return self.probability >= 0.5


def sound(*stretches: tuple[float, float]) -> np.ndarray:
    """A waveform of so many seconds with a probability each, float32 (N,)."""
    parts = [
        np.full(round(seconds * 1000 / 30) * FRAME_SAMPLES, round(100 * p) / 32768, np.float32)
        for seconds, p in stretches
    ]
    return np.concatenate(parts)


def listen(doubtful: DoubtfulSpeech, waveform: np.ndarray) -> int:
    """How many utterances the detector finds."""
    return len(list(segment_stream([waveform], doubtful)))


def test_what_the_detector_passes_over_is_kept() -> None:
    doubtful = DoubtfulSpeech(Scripted())
    waveform = sound((3, 0), (0.6, FAINT), (3, 0))
    assert listen(doubtful, waveform) == 0
    (stretch,) = doubtful.stretches(len(waveform))
    np.testing.assert_array_equal(stretch.waveform, waveform[stretch.start_sample : stretch.end_sample])
    assert stretch.start_sample / SAMPLING_RATE == pytest.approx(3 - 0.9, abs=0.04)
    assert stretch.end_sample / SAMPLING_RATE == pytest.approx(3.6 + 0.24, abs=0.04)


def test_what_the_detector_takes_for_speech_is_kept_too() -> None:
    doubtful = DoubtfulSpeech(Scripted())
    waveform = sound((1, 0), (0.6, 0.9), (0.01, 0))[:-100]  # cut off in the middle of a frame
    assert listen(doubtful, waveform) == 1
    (stretch,) = doubtful.stretches(len(waveform))
    assert stretch.end_sample == len(waveform)


def test_those_for_which_most_speaks_are_kept_in_order() -> None:
    doubtful = DoubtfulSpeech(Scripted())
    chances = [FAINT, 0.45, 0.28, 0.4, 0.26, 0.36]
    waveform = sound(*((seconds, p) for chance in chances for seconds, p in ((2, 0.0), (0.5, chance))))
    assert listen(doubtful, waveform) == 0
    kept = doubtful.stretches(len(waveform))
    assert len(kept) == MOST_KEPT
    assert [round(stretch.end_sample / SAMPLING_RATE / 2.5 - 0.5) for stretch in kept] == [2, 4, 6]


def test_nothing_is_kept_where_there_is_no_doubt() -> None:
    doubtful = DoubtfulSpeech(Scripted())
    listen(doubtful, sound((0.6, FAINT), (2, 0)))
    doubtful.forget()
    listen(doubtful, sound((0.6, FAINT), (2, 0)))
    assert doubtful.stretches(10**6) == []
    doubtful.reset()  # another recording
    listen(doubtful, sound((0.6, FAINT), (2, 0)))
    assert len(doubtful.stretches(10**6)) == 1


def test_nothing_is_kept_of_what_is_surely_no_speech() -> None:
    doubtful = DoubtfulSpeech(SpeechDetector())
    noise = np.random.default_rng(0).normal(0, 0.05, 3 * SAMPLING_RATE).astype(np.float32)
    assert listen(doubtful, noise) == 0
    assert doubtful.stretches(len(noise)) == []
