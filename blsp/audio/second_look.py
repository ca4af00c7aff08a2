"""What may be speech in a recording in which nothing surely is: kept for a second look (decision 0033)."""

from __future__ import annotations

import heapq
import itertools
import math

from blsp.audio.endpointing import EndpointingSettings, UtteranceReady, UtteranceSegmenter, within
from blsp.audio.speech_detector import Frame, Hysteresis, SpeechDetector

DOUBTFUL_PROBABILITY = 0.2
"""From which probability on a frame may be speech."""
MOST_KEPT = 3
"""Stretches of a recording, those for which most speaks: looking at each takes a second."""


class DoubtfulSpeech:
    """Takes the place of a detector, and keeps what would be an utterance by a lower threshold.

    Args:
        detector: Whose verdicts are given.
        settings: When an utterance starts and ends.
    """

    def __init__(self, detector: SpeechDetector, settings: EndpointingSettings | None = None) -> None:
        self._detector = detector
        self._settings = settings
        self.reset()

    def reset(self) -> None:
        """Forget what was heard, as at the start of a recording."""
        self._detector.reset()
        self._segmenter = UtteranceSegmenter(self._settings)
        self._verdict = Hysteresis(DOUBTFUL_PROBABILITY)
        self._kept: list[tuple[float, int, UtteranceReady]] = []  # a heap, the weakest first
        self._numbers = itertools.count()
        self._evidence = 0.0  # nats
        self._is_wanted = True

    def is_speech(self, frame: Frame) -> bool:
        """Whether a frame, int16 (480,), holds speech, as the detector says."""
        is_speech = self._detector.is_speech(frame)
        if self._is_wanted:
            self._follow(frame, self._detector.probability)
        return is_speech

    def forget(self) -> None:
        """Keep nothing of this recording any more: there is no doubt."""
        self._is_wanted = False
        self._kept.clear()
        self._segmenter.reset()

    def stretches(self, n_samples: int) -> list[UtteranceReady]:
        """What may be speech in a recording of this length that has ended, in order."""
        self._keep(self._segmenter.flush())
        return [within(stretch, n_samples) for _, _, stretch in sorted(self._kept, key=lambda kept: kept[1])]

    def _follow(self, frame: Frame, probability: float) -> None:
        self._evidence += max(0.0, _log_odds(probability) - _log_odds(DOUBTFUL_PROBABILITY))
        for event in self._segmenter.push(frame, self._verdict.is_speech(probability)):
            if isinstance(event, UtteranceReady):
                self._keep(event)

    def _keep(self, stretch: UtteranceReady | None) -> None:
        evidence, self._evidence = self._evidence, 0.0
        if stretch is not None:
            heapq.heappush(self._kept, (evidence, next(self._numbers), stretch))
            if len(self._kept) > MOST_KEPT:
                heapq.heappop(self._kept)


def _log_odds(probability: float) -> float:
    p = min(max(probability, 1e-4), 1 - 1e-4)
    return math.log(p / (1 - p))
