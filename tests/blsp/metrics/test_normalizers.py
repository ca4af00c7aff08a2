"""Whisper's own examples (MIT licence, openai/whisper, tests/test_normalizer.py), and what LibriSpeech needs."""

from __future__ import annotations

import pytest

from blsp.errors import UnsupportedError
from blsp.metrics.normalizers import normalizer, normalizer_for


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("Let's", "let us"),
        ("he's like", "he is like"),
        ("she's been like", "she has been like"),
        ("10km", "10 km"),
        ("RC232", "rc 232"),
        ("Mr. Park visited Assoc. Prof. Kim Jr.", "mister park visited associate professor kim junior"),
        ("nineteen ninety nine", "1999"),
        ("two point five million", "2500000"),
        ("three euros and sixty five cents", "€3.65"),
        ("seventy six per cent", "76%"),
        ("double oh seven", "007"),
        ("mobilisation", "mobilization"),
        ("cancelation", "cancellation"),
        ("MISTER QUILTER'S MANNER", "mister quilter is manner"),
        ("Uh, the colour [laughs] was  grey.", "the color was gray"),
        ("", ""),
    ],
)
def test_english(text: str, normalized: str) -> None:
    assert normalizer("whisper-english")(text) == normalized


@pytest.mark.parametrize(
    ("text", "normalized"), [("Wie geht's? Schön!", "wie geht s schön"), ("(Pause) ¡Hola, señor!", "hola señor")]
)
def test_basic_keeps_the_letters_of_other_languages(text: str, normalized: str) -> None:
    assert normalizer("whisper-basic")(text) == normalized


def test_none_only_tidies_white_space() -> None:
    assert normalizer("none")("  A,\n b ") == "A, b"


@pytest.mark.parametrize(
    ("language", "name"), [("en", "whisper-english"), ("English", "whisper-english"), ("de", "whisper-basic")]
)
def test_the_language_chooses(language: str, name: str) -> None:
    assert normalizer_for(language) == name


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnsupportedError) as caught:
        normalizer("kaldi")
    assert str(caught.value) == "There is no text normaliser 'kaldi'."
    assert caught.value.hint == "Use one of: whisper-english, whisper-basic, none"
