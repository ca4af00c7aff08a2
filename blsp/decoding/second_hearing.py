"""Is what passes for noise speech after all? By Whisper's own decoder, the letters and the detector (decision 0033).

It takes a second or so, and is for recordings in which nothing else was found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blsp.audio.log_mel import MIN_SAMPLES, WINDOW_SAMPLES
from blsp.audio.speech_gate import SURE_EVIDENCE, speech_evidence

if TYPE_CHECKING:
    import numpy as np

    from blsp.decoding.speech_reader import SpeechReader

LEAST_SCORE = 2.0
"""Nats from which it is speech, if Whisper is sure enough of its words."""
LEAST_LIKELIHOOD = -1.2
"""Nats a token from which it is."""
FIT_WEIGHT, EVIDENCE_WEIGHT = 0.25, 0.2
"""How much the letters and the detector count beside Whisper."""


@dataclass(frozen=True)
class SecondHearing:
    """What is found in an utterance that is doubtful."""

    letter_fit: float
    """Mean log probability that the letters give each letter of the words."""
    no_speech: float
    """Log probability that nobody speaks, as Whisper sees it."""
    description: float
    """Log probability that Whisper would describe a sound instead of writing words."""
    evidence: float
    """For speech in the sound itself, in nats."""
    likelihood: float | None = None
    """Mean log probability of what Whisper writes; None where nobody asked, since all else speaks against it."""

    @property
    def score(self) -> float:
        """How much speaks for speech, in nats, before Whisper writes."""
        detected = math.log1p(min(self.evidence, SURE_EVIDENCE))
        return FIT_WEIGHT * self.letter_fit - self.no_speech - self.description + EVIDENCE_WEIGHT * detected

    @property
    def is_speech(self) -> bool:
        """Whether somebody speaks."""
        return self.score >= LEAST_SCORE and self.likelihood is not None and self.likelihood >= LEAST_LIKELIHOOD


def is_speech_after_all(reader: SpeechReader, waveform: np.ndarray) -> bool:
    """Whether somebody speaks in what passes for noise; no where nobody can be asked. As `hear_again`."""
    hearing = hear_again(reader, waveform)
    return hearing is not None and hearing.is_speech


def hear_again(reader: SpeechReader, waveform: np.ndarray) -> SecondHearing | None:
    """Ask about an utterance at 16 kHz, float32 (N,), of one over 30 s about the beginning.

    None where it is too short, and where the reader has no letters or no Whisper to ask.

    Raises:
        CheckpointError: Whisper cannot be read.
    """
    adapter, whisper = reader.adapter, reader.spoken_language
    if len(waveform) < MIN_SAMPLES or adapter is None or not adapter.config.letters or whisper is None:
        return None
    window = waveform[:WINDOW_SAMPLES]
    sounds = whisper.sounds(window)
    if sounds is None:
        return None
    hearing = SecondHearing(reader.letter_fit(window), sounds.no_speech, sounds.description, speech_evidence(window))
    if hearing.score < LEAST_SCORE:
        return hearing
    return replace(hearing, likelihood=whisper.likelihood(window))
