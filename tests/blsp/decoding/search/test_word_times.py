from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

import blsp.decoding.search.word_times
from blsp.audio.read import load_audio
from blsp.audio.waveform import SAMPLING_RATE
from blsp.decoding.search.word_times import letter_log_probs, word_times
from blsp.modeling.letters import LETTERS
from blsp.modeling.model import BlspModel

ASSETS = Path(__file__).parents[3] / "assets"
SECOND = np.zeros(SAMPLING_RATE, np.float32)


def spelling(text: str) -> np.ndarray:
    """Log-probabilities that spell a text, a letter or `_` (blank) a frame."""
    log_probs = np.full((len(text), 1 + len(LETTERS)), -9.0)
    log_probs[np.arange(len(text)), [1 + LETTERS.index(c) if c in LETTERS else 0 for c in text]] = -0.01
    return log_probs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hi you!", [(0.2, 0.4), (0.6, 0.9)]),
        ("Hi 3 you", [(0.2, 0.4), (0.4, 0.6), (0.6, 0.9)]),
        ("1 2 Hi you 3", [(0.0, 0.1), (0.1, 0.2), (0.2, 0.4), (0.6, 0.9), (0.9, 1.0)]),
        ("42", None),
        ("", None),
        ("far too many letters for it", None),
    ],
)
def test_words_are_where_their_letters_are(
    text: str, expected: list[tuple[float, float]] | None, tiny_model: BlspModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        blsp.decoding.search.word_times, "letter_log_probs", lambda *_: spelling("__hi_ you_"[:4] + " _you_")
    )
    times = word_times(tiny_model, SECOND, text)
    assert times is None if expected is None else np.allclose(times, expected)  # type: ignore[arg-type]


def test_an_adapter_that_reads_no_letters_knows_no_times(tiny_model: BlspModel) -> None:
    assert letter_log_probs(tiny_model, SECOND) is None
    assert word_times(tiny_model, SECOND, "words") is None


@pytest.mark.slow
def test_the_tiny_model_finds_the_words_of_a_sentence() -> None:
    from blsp.models.load import load_model
    from blsp.models.spec import resolve

    model = load_model(resolve("tiny"))
    waveform, text = load_audio(ASSETS / "old_house.ogg"), "The old house stood at the end of a quiet street."
    times = word_times(model, waveform, text)
    assert times is not None
    assert len(times) == 11
    assert all(a < b <= c for (a, b), (c, _) in itertools.pairwise(times))
    later = word_times(model, np.concatenate([SECOND, waveform]), text)
    assert later is not None
    assert np.allclose(np.array(later) - 1, times, atol=0.15)
