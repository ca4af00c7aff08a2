"""Whether Whisper hears words: against Whisper itself, on a tiny random one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blsp.audio.log_mel import extract_features
from blsp.decoding.sound_detector import load_sound_detector
from blsp.decoding.spoken_language import SpokenLanguage
from blsp.modeling.encoder import SpeechEncoder
from blsp.storage import write_json

MakeSpeech = Callable[..., np.ndarray]
START, TRANSCRIBE, NO_TIMESTAMPS, END = 50_258, 50_359, 50_363, 50_257
LANGUAGES = {"<|en|>": 50_259, "<|de|>": 50_261}
SIGNS = [1, 2, 58, 685]
SETTINGS = {
    **{"decoder_start_token_id": START, "eos_token_id": END, "lang_to_id": LANGUAGES},
    **{"task_to_id": {"transcribe": TRANSCRIBE}, "no_timestamps_token_id": NO_TIMESTAMPS},
    "suppress_tokens": [*SIGNS, START, TRANSCRIBE],  # tokens of its own language are no signs
    "begin_suppress_tokens": [220, END],
}


def test_two_steps_give_whispers_own_probabilities(
    tiny_whisper: Any, tiny_encoder: SpeechEncoder, tmp_path: Path, make_speech: MakeSpeech
) -> None:
    tiny_whisper.save_pretrained(tmp_path)
    write_json(tmp_path / "generation_config.json", SETTINGS)
    waveform = make_speech(0.7)
    spoken = SpokenLanguage(tiny_encoder, lambda: None, lambda: load_sound_detector(tmp_path))
    scores = spoken.sounds(waveform)
    assert scores is not None
    features, _ = extract_features([waveform], 80, padded=True)
    with torch.no_grad():
        states = tiny_encoder(features, torch.tensor([3000]))[0]
        first = step(tiny_whisper, states, [START])
        language = max(LANGUAGES.values(), key=lambda token: float(first[token]))
        second = step(tiny_whisper, states, [START, language, TRANSCRIBE, NO_TIMESTAMPS])
    assert scores.no_speech == pytest.approx(float(first[NO_TIMESTAMPS - 1]), abs=1e-4)
    assert scores.description == pytest.approx(float(second[SIGNS].logsumexp(0)), abs=1e-4)


@pytest.mark.slow
def test_how_sure_whisper_is_of_what_it_writes(
    tiny_whisper: Any, tiny_encoder: SpeechEncoder, tmp_path: Path, make_speech: MakeSpeech
) -> None:
    tiny_whisper.save_pretrained(tmp_path)
    write_json(tmp_path / "generation_config.json", SETTINGS)
    waveform = make_speech(0.7)
    found = SpokenLanguage(tiny_encoder, lambda: None, lambda: load_sound_detector(tmp_path)).likelihood(waveform)
    features, _ = extract_features([waveform], 80, padded=True)
    ids, log_probs = [START], []
    with torch.no_grad():
        states = tiny_encoder(features, torch.tensor([3000]))[0]
        first = step(tiny_whisper, states, ids)
        ids += [max(LANGUAGES.values(), key=lambda token: float(first[token])), TRANSCRIBE, NO_TIMESTAMPS]
        while len(log_probs) < 15 and ids[-1] != END:
            scores = step(tiny_whisper, states, ids)
            never = {*SETTINGS["suppress_tokens"], *(() if log_probs else SETTINGS["begin_suppress_tokens"])}  # type: ignore[misc]
            ids.append(next(i for i in scores.argsort(descending=True).tolist() if i not in never))
            log_probs.append(float(scores[ids[-1]]))
    assert found == pytest.approx(sum(log_probs) / len(log_probs), abs=1e-4)


def step(whisper: Any, states: torch.Tensor, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = whisper(encoder_outputs=(states,), decoder_input_ids=torch.tensor([ids])).logits
    return logits[0, -1].log_softmax(dim=0)


@pytest.mark.parametrize("missing", ["lang_to_id", "task_to_id", "no_timestamps_token_id", "suppress_tokens"])
def test_a_whisper_that_lacks_a_token_tells_nothing(tiny_encoder: SpeechEncoder, tmp_path: Path, missing: str) -> None:
    assert load_sound_detector(tmp_path) is None
    write_json(tmp_path / "generation_config.json", {k: v for k, v in SETTINGS.items() if k != missing})
    assert load_sound_detector(tmp_path) is None
    spoken = SpokenLanguage(tiny_encoder, lambda: None, lambda: load_sound_detector(tmp_path))
    assert spoken.sounds(np.ones(16_000, np.float32)) is None
    assert spoken.likelihood(np.ones(16_000, np.float32)) is None
