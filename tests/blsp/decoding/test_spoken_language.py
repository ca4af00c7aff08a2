"""Which language is spoken: against Whisper itself, on a tiny random one; and what is made of its scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import blsp.decoding.spoken_language as module
from blsp.audio.log_mel import extract_features
from blsp.decoding.spoken_language import LanguageJudge, LanguageScores, SpokenLanguage, load_language_detector
from blsp.modeling.encoder import SpeechEncoder
from blsp.storage import write_json

MakeSpeech = Callable[..., np.ndarray]
START, LANGUAGES = 50_258, {"<|en|>": 50_259, "<|de|>": 50_261, "<|it|>": 50_274}
SPEECH = np.ones(16_000, np.float32)


@pytest.fixture(scope="module")
def folder(tiny_whisper: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Whisper on the disk."""
    path = tmp_path_factory.mktemp("whisper")
    tiny_whisper.save_pretrained(path)
    write_json(path / "generation_config.json", {"lang_to_id": LANGUAGES, "decoder_start_token_id": START})
    return path


@pytest.mark.parametrize("padded", [False, True])
def test_one_step_gives_whispers_own_probabilities(
    tiny_whisper: Any, tiny_encoder: SpeechEncoder, folder: Path, make_speech: MakeSpeech, padded: bool
) -> None:
    waveform = make_speech(0.7)
    scores = SpokenLanguage(tiny_encoder, lambda: load_language_detector(folder)).scores(waveform, padded=padded)
    assert scores is not None
    features, lengths = extract_features([waveform], 80, padded=padded)
    with torch.no_grad():
        states = tiny_encoder(features, torch.tensor([3000]) if padded else lengths)[0]
        logits = tiny_whisper(encoder_outputs=(states,), decoder_input_ids=torch.tensor([[START]])).logits[0, 0]
    expected = logits[list(LANGUAGES.values())].log_softmax(dim=0)
    assert list(scores.log_probs) == ["en", "de", "it"]
    torch.testing.assert_close(torch.tensor(list(scores.log_probs.values())), expected, rtol=0, atol=1e-4)


def test_a_whisper_of_one_language_or_without_decoder_tells_nothing(
    tiny_whisper: Any, tiny_encoder: SpeechEncoder, folder: Path, tmp_path: Path
) -> None:
    assert load_language_detector(tmp_path) is None
    tiny_whisper.save_pretrained(tmp_path)
    write_json(tmp_path / "generation_config.json", {"decoder_start_token_id": START})
    spoken = SpokenLanguage(tiny_encoder, lambda: load_language_detector(tmp_path))
    assert (spoken.is_known, spoken.scores(SPEECH, padded=False)) == (False, None)
    judge = LanguageJudge(spoken, ["en"])
    judge.hear(SPEECH)
    assert (judge.is_settled, judge.foreign) == (True, None)


def test_an_utterance_is_encoded_once(tiny_encoder: SpeechEncoder, folder: Path, make_speech: MakeSpeech) -> None:
    """The language and the words are read from the same states, and only while the encoder is the same."""
    passes: list[int] = []
    hook = tiny_encoder.whisper.conv1.register_forward_hook(lambda *_: passes.append(1))
    waveforms = [make_speech(0.5, seed=seed) for seed in (71, 72, 73)]  # the encoder may have kept those of other tests
    with torch.inference_mode():
        for waveform in (*waveforms[:2], *waveforms[:2], waveforms[2], waveforms[0]):
            tiny_encoder(*extract_features([waveform]))
    assert len(passes) == 4  # the last two are kept
    SpokenLanguage(tiny_encoder, lambda: load_language_detector(folder)).scores(waveforms[0], padded=False)
    assert len(passes) == 4
    tiny_encoder(*extract_features([waveforms[0]]))  # what is kept is of no use to training
    assert len(passes) == 5
    with torch.no_grad():
        tiny_encoder.whisper.conv1.bias += 0.0
    with torch.inference_mode():
        tiny_encoder(*extract_features([waveforms[0]]))
    assert len(passes) == 6
    hook.remove()


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (["en"], ("it", math.log(0.6 / 0.3))),
        (["en", "it"], ("de", math.log(0.1 / 0.9))),
        (["fr"], ("it", math.inf)),
    ],
)
def test_how_much_likelier_an_unknown_language_is(known: list[str], expected: tuple[str, float]) -> None:
    scores = LanguageScores({"en": math.log(0.3), "de": math.log(0.1), "it": math.log(0.6)})
    code, nats = scores.foreign(known)
    assert (code, nats) == (expected[0], pytest.approx(expected[1]))


class Scripted:
    """Finds in each utterance how much likelier Italian is than English: on the speech alone, and with silence."""

    is_known = True

    def __init__(self, *nats: tuple[float, float]) -> None:
        self._nats = list(nats)
        self.asked = 0

    def scores(self, waveform: np.ndarray, *, padded: bool) -> LanguageScores:
        del waveform
        self.asked += 1
        first, second = self._nats[0]
        nats = second if padded else first
        if padded or first <= module.SUSPICIOUS_NATS:
            self._nats.pop(0)
        return LanguageScores({"en": 0.0, "it": nats})


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What speaks for speech in each utterance."""
    nats = SimpleNamespace(value=500.0)
    monkeypatch.setattr(module, "speech_evidence", lambda _: nats.value)
    return nats


LITTLE, MUCH = (0.0, 0.0), (9.0, 9.0)
ACCENT = (9.0, 0.0)
"""Strange at first, and not at a second look."""


@pytest.mark.parametrize(
    ("heard", "foreign", "n_asked"),
    [
        ([LITTLE], None, 1),
        ([LITTLE, MUCH], None, 1),  # the first that is understood settles it
        ([MUCH], "it", 2),
        ([ACCENT, MUCH], "it", 4),
        ([ACCENT, ACCENT, ACCENT, MUCH], None, 6),  # enough was heard
    ],
)
def test_a_recording_is_judged_by_its_first_utterances(
    heard: list[tuple[float, float]], foreign: str | None, n_asked: int, evidence: SimpleNamespace
) -> None:
    spoken = Scripted(*heard)
    judge = LanguageJudge(spoken, ["en"])  # type: ignore[arg-type]
    for _ in heard:
        judge.hear(SPEECH)
    assert (judge.is_settled, judge.foreign, spoken.asked) == (True, foreign, n_asked)


def test_an_accent_spells_well(evidence: SimpleNamespace) -> None:
    spoken = Scripted(MUCH)
    judge = LanguageJudge(spoken, ["en"], lambda window: len(window) == len(SPEECH))  # type: ignore[arg-type]
    judge.hear(SPEECH)
    assert (judge.is_settled, judge.foreign, spoken.asked) == (False, None, 1)
    judge.hear(SPEECH[1:])
    assert judge.foreign == "it"


@pytest.mark.parametrize(("nats", "is_foreign"), [(9.0, True), (3.0, False)])
def test_a_short_utterance_has_to_sound_more_foreign(nats: float, is_foreign: bool, evidence: SimpleNamespace) -> None:
    evidence.value = module.SHORT_EVIDENCE - 1
    judge = LanguageJudge(Scripted((9.0, nats)), ["en"])  # type: ignore[arg-type]
    judge.hear(SPEECH)
    assert (judge.foreign == "it") == is_foreign
    evidence.value = module.SHORT_EVIDENCE
    judge = LanguageJudge(Scripted((9.0, nats)), ["en"])  # type: ignore[arg-type]
    judge.hear(SPEECH)
    assert judge.foreign == "it"


def test_what_is_not_surely_speech_is_of_no_language(evidence: SimpleNamespace) -> None:
    evidence.value = 30.0
    spoken = Scripted(MUCH)
    judge = LanguageJudge(spoken, ["en"])  # type: ignore[arg-type]
    judge.hear_all(np.ones(3 * 30 * 16_000, np.float32))
    assert (judge.is_settled, judge.foreign, spoken.asked) == (False, None, 0)
    for _ in range(module.MAX_HEARD):
        judge.hear(SPEECH)
    assert judge.is_settled
    assert spoken.asked == 0
