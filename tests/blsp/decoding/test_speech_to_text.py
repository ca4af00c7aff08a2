"""Whole recordings through the public functions, on a tiny random model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blsp
from blsp.audio.waveform import SAMPLING_RATE
from blsp.decoding import second_hearing, speech_to_text
from blsp.decoding.second_hearing import SecondHearing
from blsp.decoding.speech_reader import SpeechReader

MakeSpeech = Callable[..., np.ndarray]
ASSETS = Path(__file__).parents[2] / "assets"
CLIP = ASSETS / "capital_of_france.flac"


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Lengths of the utterances of each call that finds words; the words are said to be `word N`."""
    calls: list[list[int]] = []

    def find(_model: Any, waveforms: list[np.ndarray]) -> list[str]:
        calls.append([len(waveform) for waveform in waveforms])
        return [f"word {len(calls)}.{i}" for i in range(len(waveforms))]

    monkeypatch.setattr(speech_to_text, "transcribe_batch", find)
    return calls


@pytest.mark.slow
def test_a_path_bytes_and_a_waveform_say_the_same(tiny_model: Any) -> None:
    path, text, data = CLIP, str(CLIP), CLIP.read_bytes()
    waveform = blsp.load_audio(path)
    results = [blsp.transcribe(tiny_model, audio) for audio in (path, text, data, waveform)]
    assert all(result == results[0] for result in results)
    assert results[0].seconds == round(len(waveform) / SAMPLING_RATE, 3)


def test_segments_are_the_utterances_in_order(tiny_model: Any, make_speech: MakeSpeech, heard: list[list[int]]) -> None:
    speech, pause = blsp.load_audio(CLIP), np.zeros(2 * SAMPLING_RATE, np.float32)
    result = blsp.transcribe(tiny_model, np.concatenate([pause, speech, pause, speech, pause]))
    assert [segment.text for segment in result.segments] == ["word 1.0", "word 1.1"]
    assert result.text == "word 1.0 word 1.1"
    first, second = result.segments
    assert 1.5 < first.start < first.end < second.start < second.end < result.seconds
    assert len(heard) == 1, "both are read in the same passes"


@pytest.mark.parametrize("seconds", [0.01, 3.0])
def test_silence_has_an_empty_transcript(tiny_model: Any, seconds: float) -> None:
    silence = np.zeros(round(seconds * SAMPLING_RATE), np.float32)
    assert blsp.transcribe(tiny_model, silence) == blsp.Transcript("", (), None, seconds)
    assert blsp.translate(tiny_model, silence, "German").segments == ()


def test_what_passed_for_noise_is_heard_again(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = iter(["", "after all"])
    monkeypatch.setattr(speech_to_text, "transcribe_batch", lambda _, waveforms: [next(texts) for _ in waveforms])
    monkeypatch.setattr(second_hearing, "hear_again", lambda *_: SecondHearing(0.0, -9.0, -9.0, 50.0, 0.0))
    assert blsp.transcribe(tiny_model, CLIP).text == "after all"


def test_an_answer_about_silence_is_an_error(deaf_model: Any) -> None:
    with pytest.raises(blsp.NoSpeechError):
        blsp.ask(deaf_model, np.zeros(SAMPLING_RATE, np.float32), "What is said?")


@pytest.mark.parametrize(
    ("audio", "shown"),
    [
        (np.zeros(100), r"float64 \(100,\)"),
        (np.zeros((2, 100), np.float32), r"float32 \(2, 100\)"),
        (np.zeros(0, np.float32), r"float32 \(0,\)"),
    ],
)
def test_what_is_no_waveform_is_refused(tiny_model: Any, audio: np.ndarray, shown: str) -> None:
    for use in (blsp.transcribe, blsp.ask):
        with pytest.raises(ValueError, match=rf"`audio` must be mono at 16 kHz, float32 \(N,\), but is {shown}"):
            use(tiny_model, audio)


def test_a_language_that_nobody_knows_is_refused(tiny_model: Any) -> None:
    with pytest.raises(ValueError, match="`language` must be the name or code of a language, but is 'Klingonese'"):
        blsp.transcribe(tiny_model, CLIP, language="Klingonese")
    with pytest.raises(ValueError, match="`to` must be"):
        blsp.translate(tiny_model, CLIP, "Klingonese")


class _Judge:
    known = ("en",)
    is_settled = True
    foreign = "de"

    def hear(self, waveform: np.ndarray) -> None:
        pass


def test_a_language_that_the_adapter_does_not_know_is_told(
    tiny_model: Any, monkeypatch: pytest.MonkeyPatch, heard: list[list[int]]
) -> None:
    monkeypatch.setattr(SpeechReader, "language_judge", lambda _: _Judge())
    with pytest.raises(blsp.ForeignSpeechError, match="this sounds like German; the model hears English") as error:
        blsp.transcribe(tiny_model, CLIP)
    assert error.value.hint == "If it is English after all: language='en'"
    assert heard == []
    assert blsp.transcribe(tiny_model, CLIP, language="English").language == "en"


def test_a_translation_is_in_the_language_that_was_asked_for(tiny_model: Any) -> None:
    result = blsp.translate(tiny_model, CLIP, "pt-BR")
    assert result.language == "pt"
    assert result == blsp.translate(tiny_model, blsp.load_audio(CLIP), "Brazilian Portuguese")


def test_damage_is_a_warning(tiny_model: Any, heard: list[list[int]]) -> None:
    whole = CLIP.read_bytes()
    with pytest.warns(UserWarning, match="The audio"):
        blsp.transcribe(tiny_model, whole[: len(whole) * 3 // 4])


@pytest.mark.slow
def test_the_small_model_transcribes_and_answers() -> None:
    model = blsp.load_model("tiny", device="cpu")
    found = blsp.transcribe(model, CLIP, word_times=True)
    assert found.text.lower() == "what is the capital of france"
    assert found.language == "en"
    (segment,) = found.segments
    assert [word.text for word in segment.words] == segment.text.split()
    assert all(type(word.start) is float for word in segment.words)
    assert "Paris" in blsp.ask(model, CLIP)
    assert "Paris" in "".join(blsp.Conversation(model).reply("What is the capital of France?"))
