"""When what passed for noise is speech after all."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from blsp.audio.log_mel import MIN_SAMPLES, WINDOW_SAMPLES
from blsp.audio.speech_gate import SURE_EVIDENCE
from blsp.decoding.second_hearing import LEAST_LIKELIHOOD, LEAST_SCORE, SecondHearing, hear_again
from blsp.decoding.sound_detector import SoundScores
from blsp.decoding.speech_reader import SpeechReader

WORDS = SoundScores(no_speech=-2.0, description=-3.0)
SURELY = SecondHearing(letter_fit=-0.5, no_speech=-2.0, description=-3.0, evidence=0.0, likelihood=-0.5)


@pytest.mark.parametrize(
    "change",
    [{"letter_fit": -20.0}, {"no_speech": 0.0, "description": -1.0}, {"likelihood": -1.3}, {"likelihood": None}],
)
def test_words_have_to_be_likelier_than_sounds(change: dict[str, Any]) -> None:
    assert SURELY.is_speech
    assert not replace(SURELY, **change).is_speech


def test_every_sign_counts() -> None:
    limit = SecondHearing(0.0, no_speech=-LEAST_SCORE, description=0.0, evidence=0.0, likelihood=LEAST_LIKELIHOOD)
    assert limit.is_speech
    for name, change in (("letter_fit", -0.1), ("no_speech", 0.1), ("description", 0.1)):
        doubtful = replace(limit, **{name: getattr(limit, name) + change})
        assert not doubtful.is_speech
        assert replace(doubtful, evidence=1.0).is_speech
    assert replace(limit, evidence=1e9).score == replace(limit, evidence=SURE_EVIDENCE).score


def model(*, letters: str = "abc", sounds: SoundScores | None = WORDS) -> Any:
    """What is asked of a model; it keeps how long what it is asked about is."""
    asked: list[int] = []

    def letter_fit(window: np.ndarray) -> float:
        asked.append(len(window))
        return -0.5

    whisper = SimpleNamespace(sounds=lambda _: sounds, likelihood=lambda _: -0.5)
    adapter = SimpleNamespace(config=SimpleNamespace(letters=letters))
    return SimpleNamespace(adapter=adapter, spoken_language=whisper, letter_fit=letter_fit, asked=asked)


@pytest.mark.slow
def test_whisper_and_letters_are_asked_about_30_seconds() -> None:
    asked = model()
    assert hear_again(asked, np.zeros(2 * WINDOW_SAMPLES, np.float32)) == SURELY
    assert asked.asked == [WINDOW_SAMPLES]


def test_whisper_writes_nothing_where_all_else_speaks_against_speech() -> None:
    sounds = SoundScores(no_speech=-0.1, description=-0.1)
    hearing = hear_again(model(sounds=sounds), np.zeros(16_000, np.float32))
    assert hearing is not None
    assert (hearing.is_speech, hearing.likelihood) == (False, None)


def test_nobody_can_be_asked() -> None:
    sound = np.zeros(16_000, np.float32)
    assert hear_again(model(), sound[: MIN_SAMPLES - 1]) is None
    for missing in ({"letters": ""}, {"sounds": None}):
        assert hear_again(model(**missing), sound) is None
    for part in ("adapter", "spoken_language"):
        assert hear_again(cast(SpeechReader, SimpleNamespace(**{**vars(model()), part: None})), sound) is None
