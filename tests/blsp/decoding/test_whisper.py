"""What Whisper writes is believed of speech only; on a tiny random Whisper that writes whatever it likes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import blsp.decoding.whisper as module
from blsp.decoding.whisper import Hypothesis, Recognition, WhisperRecogniser

MakeSpeech = Callable[..., np.ndarray]
LIKELY = Hypothesis("What is the capital of France?", "en", no_speech=0.1, mean_log_prob=-0.2, evidence=30.0)
START, LANGUAGES = 50_258, {"<|en|>": 50_259, "<|de|>": 50_261}


class Words:
    """Writes the number of each token."""

    @staticmethod
    def batch_decode(ids: torch.Tensor, *, skip_special_tokens: bool) -> list[str]:
        assert skip_special_tokens
        return [" " + " ".join(str(i) for i in row.tolist() if i < START - 1) for row in ids]


@pytest.fixture(scope="module")
def whisper(tiny_whisper: Any) -> Any:
    """The tiny Whisper as a multilingual one."""
    whisper = copy.deepcopy(tiny_whisper)
    settings = whisper.generation_config
    settings.decoder_start_token_id, settings.no_timestamps_token_id = START, 50_363
    settings.eos_token_id = settings.pad_token_id = START - 1
    settings.is_multilingual, settings.lang_to_id = True, LANGUAGES
    settings.task_to_id = {"transcribe": 50_359, "translate": 50_358}
    return whisper


@pytest.fixture
def recogniser(whisper: Any) -> WhisperRecogniser:
    return WhisperRecogniser(whisper, Words())


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What speaks for speech in each waveform, in order."""
    values: list[float] = []
    monkeypatch.setattr(module, "speech_evidence", lambda _: values.pop(0))
    return values


@pytest.mark.parametrize(
    ("changes", "believed"),
    [
        ({}, True),
        ({"text": ""}, False),
        ({"no_speech": 0.7}, False),
        ({"mean_log_prob": -1.1}, False),
        ({"text": "B-" * 60}, False),
        ({"evidence": 3.9}, False),
        ({"evidence": 60.0, "no_speech": 0.7, "mean_log_prob": -1.4}, True),  # badly heard, but somebody speaks
        ({"evidence": 60.0, "text": ""}, False),
    ],
)
def test_what_is_believed(recogniser: WhisperRecogniser, changes: dict[str, Any], believed: bool) -> None:
    assert recogniser.is_believed(replace(LIKELY, **changes)) == believed


def test_what_is_surely_no_speech_is_not_even_read(evidence: list[float]) -> None:
    evidence += [0.0, 3.9]
    deaf = WhisperRecogniser(None, None)
    assert deaf.recognise_batch([np.zeros(16_000, np.float32)] * 2) == [Recognition(), Recognition()]


def test_silence_and_too_little_are_nothing() -> None:
    deaf = WhisperRecogniser(None, None)
    assert deaf.transcribe(np.zeros(32_000, np.float32)) == ""
    assert deaf.transcribe(np.zeros(100, np.float32)) == ""


@pytest.mark.slow
def test_how_sure_whisper_is_of_what_it_writes(
    recogniser: WhisperRecogniser, whisper: Any, make_speech: MakeSpeech, evidence: list[float]
) -> None:
    """Against one pass of the model over the same tokens."""
    evidence += [99.0, 99.0]
    (hypothesis,) = recogniser.consider([make_speech(0.5)], "de")
    assert hypothesis is not None
    ids = [int(word) for word in hypothesis.text.split()]
    assert ids
    given = [START, LANGUAGES["<|de|>"], 50_359, 50_363]
    features, _ = module.extract_features([make_speech(0.5)], 80, padded=True)
    with torch.no_grad():
        logits = whisper(features, decoder_input_ids=torch.tensor([given + ids])).logits[0]
    silence = float(logits[0].softmax(0)[50_362])
    assert hypothesis.no_speech == pytest.approx(silence, rel=1e-3)
    found = logits.log_softmax(1)[torch.arange(3, 3 + len(ids)), torch.tensor(ids)]
    assert hypothesis.mean_log_prob == pytest.approx(float(found.mean()), abs=0.05)
    best = max(LANGUAGES, key=lambda name: float(logits[0, LANGUAGES[name]]))
    (unsaid,) = recogniser.consider([make_speech(0.5)])
    assert unsaid is not None
    assert f"<|{unsaid.language}|>" == best


@pytest.mark.slow
def test_a_batch_is_each_of_its_utterances(
    recogniser: WhisperRecogniser, make_speech: MakeSpeech, evidence: list[float]
) -> None:
    waveforms = [make_speech(0.5, seed=seed) for seed in range(3)]
    evidence += [99.0, 0.0, 70.0, 99.0, 0.0, 70.0]
    together = recogniser.recognise_batch(waveforms)
    assert together == [recogniser.recognise_batch([waveform])[0] for waveform in waveforms]
    assert together[1] == Recognition()
    assert together[0].text
    assert together[0].language in ("en", "de")


def test_what_goes_in_circles_is_written_without(
    recogniser: WhisperRecogniser, make_speech: MakeSpeech, evidence: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def write(encoded: torch.Tensor, hypotheses: list[Hypothesis], limit: int, **how: Any) -> list[Hypothesis]:
        asked.append(how)
        return [replace(hypothesis, text="never mind" if how else "ha " * 99) for hypothesis in hypotheses]

    monkeypatch.setattr(recogniser, "write", write)
    evidence += [99.0, 30.0]
    assert [part.text for part in recogniser.recognise_batch([make_speech(0.5)] * 2)] == ["never mind", ""]
    assert asked == [{}, {"no_repeat_ngram_size": 3}]


@pytest.mark.slow
def test_speech_of_any_length_in_windows(
    recogniser: WhisperRecogniser, make_speech: MakeSpeech, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([("Guten Tag, wie geht es?", "de"), ("", "en"), ("Yes.", "en")])
    lengths: list[int] = []

    def batch(waveforms: list[np.ndarray], language: str | None) -> list[Recognition]:
        lengths.append(len(waveforms[0]) // 16_000)
        return [Recognition(*next(found))]

    monkeypatch.setattr(recogniser, "recognise_batch", batch)
    assert recogniser.recognise(make_speech(65.0)) == Recognition("Guten Tag, wie geht es? Yes.", "de")
    assert lengths == [30, 30, 5]
