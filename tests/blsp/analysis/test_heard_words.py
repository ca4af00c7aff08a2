"""What an LLM is handed, and what else was heard."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from blsp.analysis.heard_words import HeardWord, explain_speech
from blsp.audio.read import load_audio
from blsp.decoding.speech_reader import speech_reader
from blsp.errors import UnsupportedError
from blsp.modeling.adapter import Adapter, AdapterConfig, Readout
from blsp.modeling.model import BlspModel
from blsp.models.load import load_model
from blsp.models.spec import resolve


@pytest.fixture
def make_model(tiny_model: BlspModel) -> Callable[[Readout], BlspModel]:
    def make(readout: Readout) -> BlspModel:
        model = copy.deepcopy(tiny_model)
        torch.manual_seed(5)
        shape = AdapterConfig(16, 16, (3, 3), bottleneck_dim=8, readout=readout, blocks=(0, 0), letters=True)
        model.adapter = Adapter(shape).eval()
        return model

    return make


def test_words_are_what_they_read_as(
    make_model: Callable[[Readout], BlspModel], make_speech: Callable[..., np.ndarray]
) -> None:
    model, waveform = make_model("ctc_words"), make_speech(2.0)
    words = explain_speech(model, waveform, k=2)
    ids = speech_reader(model).read_speech([waveform])
    assert ids is not None
    assert [word.nearest[0].token_id for word in words] == ids[0]
    for word in words:
        assert word.text == word.nearest[0].text
        assert word.nearest[0].cosine == pytest.approx(1.0, abs=1e-5)
        assert 0 <= word.start <= word.end <= 2.1
        assert len(word.nearest) == 2
        assert len(word.alternatives) <= 2
        assert word.text.casefold() not in {other.text.casefold() for other in word.alternatives}
        assert word.added == 0


@pytest.mark.slow
def test_it_says_how_much_the_sound_changes(
    make_model: Callable[[Readout], BlspModel], make_speech: Callable[..., np.ndarray]
) -> None:
    model, waveform = make_model("ctc_residual"), make_speech(2.0)
    assert model.adapter is not None
    assert model.adapter.residual is not None
    assert not any(word.added for word in explain_speech(model, waveform))
    torch.nn.init.normal_(model.adapter.residual.out.weight, std=3.0)
    words = explain_speech(model, waveform)
    assert min(word.added for word in words) > 0.1
    assert any(word.nearest[0].text != word.text for word in words)


@pytest.mark.parametrize("readout", ["frames", "ctc_frames"])
def test_frames_are_explained_by_the_tokens_they_are_near_to(
    make_model: Callable[[Readout], BlspModel], make_speech: Callable[..., np.ndarray], readout: Readout
) -> None:
    model, waveform = make_model(readout), make_speech(1.0)
    words = explain_speech(model, waveform)
    assert len(words) == speech_reader(model).embed_speech([waveform])[0].size(1)
    assert all((word.text is None) == (readout == "frames") for word in words)
    assert [word.start for word in words] == sorted(word.start for word in words)


@pytest.mark.slow
def test_long_speech_is_explained_window_by_window(
    make_model: Callable[[Readout], BlspModel], make_speech: Callable[..., np.ndarray]
) -> None:
    words = explain_speech(make_model("ctc_words"), make_speech(31.0))
    starts = [word.start for word in words]
    assert starts == sorted(starts)
    assert starts[-1] > 15.5


def test_what_has_no_adapter_hears_nothing(tiny_model: BlspModel) -> None:
    from blsp.decoding.speech_reader import make_model

    deaf = make_model(None, None, tiny_model.llm, tiny_model.tokenizer, tiny_model.template)
    with pytest.raises(UnsupportedError, match="Only a model that hears can be explained"):
        explain_speech(deaf, np.zeros(16_000, np.float32))


@pytest.mark.slow
def test_real_speech_is_explained() -> None:
    waveform = load_audio(Path("tests/assets/capital_of_france.flac"))
    words = explain_speech(load_model(resolve("tiny"), packed=True), waveform)

    def heard(text: str) -> HeardWord:
        (word,) = (word for word in words if word.text == text)
        return word

    assert heard("capital").letters == "capital"
    assert heard("of").end < heard("France").start
    assert heard("?").alternatives == ()
    assert "friends" in [other.text for other in heard("France").alternatives]
