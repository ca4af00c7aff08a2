from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from blsp.analysis.nearest_tokens import FrameMatch, TokenMatch, UtteranceMatch, match_tokens
from blsp.decoding.speech_reader import make_model
from blsp.errors import UnsupportedError
from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.model import BlspModel

ASSETS = Path(__file__).parents[2] / "assets"
WIDTH = 16


def hearing(model: BlspModel, readout: str, wanted: list[int]) -> BlspModel:
    """A model whose adapter gives each of the first frames the direction of a wanted token's embedding."""
    adapter = Adapter(AdapterConfig(WIDTH, WIDTH, bottleneck_dim=WIDTH // 2, readout=readout)).eval()  # type: ignore[arg-type]
    tokens = model.llm.get_input_embeddings().weight

    def forward(hidden_states: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        lengths = adapter.output_lengths(lengths)
        embeds = torch.zeros(1, int(lengths[0]), WIDTH)
        embeds[0, : len(wanted)] = 3 * tokens[wanted]
        return embeds, lengths, None

    adapter.forward_with_letters = forward  # type: ignore[method-assign]
    return make_model(model.encoder, adapter, model.llm, model.tokenizer, model.template).eval()


def test_each_frame_finds_its_token(tiny_model: BlspModel, make_speech: Callable[..., np.ndarray]) -> None:
    wanted = tiny_model.tokenizer("Please repeat the following words", add_special_tokens=False).input_ids
    found = match_tokens(hearing(tiny_model, "frames", wanted), make_speech(2.0), k=2)
    assert found.frame_seconds == 0.16
    assert len(found.frames) == 13  # ceil(100 / 8)
    assert [frame.seconds for frame in found.frames[:3]] == [0.0, 0.16, 0.32]
    for frame, token_id in zip(found.frames, wanted):
        best, second = frame.nearest
        assert best.token_id == token_id
        assert best.cosine == pytest.approx(1.0, abs=1e-5)
        assert second.cosine < best.cosine
        assert best.text == tiny_model.tokenizer.decode([token_id]).strip()
        assert frame.read is None
    assert not found.has_readout
    assert found.read_text == ""


def test_a_ctc_head_reads_each_token_once(tiny_model: BlspModel, make_speech: Callable[..., np.ndarray]) -> None:
    tokenizer = tiny_model.tokenizer
    wanted = tokenizer("Please repeat the capital", add_special_tokens=False).input_ids
    doubled = [token_id for token_id in wanted for _ in (0, 1)]
    assert len(doubled) < 25
    model = hearing(tiny_model, "ctc_expected", doubled)
    assert model.adapter is not None
    assert model.adapter.ctc is not None
    with torch.no_grad():
        model.adapter.ctc.blank.zero_()
    found = match_tokens(model, make_speech(4.0))
    assert found.has_readout
    read = [frame.read for frame in found.frames[: len(doubled)]]
    assert [None if match is None else match.token_id for match in read] == [
        token_id for wanted_id in wanted for token_id in (wanted_id, None)
    ]
    assert found.read_text == "Please repeat the capital"


def test_words_of_a_search_stand_where_they_fit_best(
    tiny_model: BlspModel, make_speech: Callable[..., np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hearing(tiny_model, "ctc_words", [])
    assert model.adapter is not None
    assert model.adapter.ctc is not None
    (the, a) = (tiny_model.tokenizer(text, add_special_tokens=False).input_ids[0] for text in (" the", " a"))
    logits = torch.zeros(1, 25, 320 + 1)
    logits[0, torch.arange(25), torch.tensor([0, 0, 1 + the, 1 + the, *[0] * 5, 1 + a, *[0] * 15])] = 20.0
    monkeypatch.setattr(model.adapter.ctc, "logits", lambda *_: logits)
    found = match_tokens(model, make_speech(4.0))
    assert {i: frame.read.token_id for i, frame in enumerate(found.frames) if frame.read} == {2: the, 9: a}
    assert found.read_text == "the a"


def test_words_and_pieces_of_words_are_told_apart() -> None:
    pieces = [("what", True), ("ever", False), ("it", True)]
    frames = [FrameMatch(0.0, (), TokenMatch(0, text, starts, 1.0)) for text, starts in pieces]
    assert UtteranceMatch((*frames, FrameMatch(0.0, (), None)), 0.16, True).read_text == "whatever it"


def test_what_cannot_be_matched_is_refused(tiny_model: BlspModel) -> None:
    with pytest.raises(ValueError, match=r"400 to 480000 samples \(30 s\), but holds 480001"):
        match_tokens(tiny_model, np.zeros(480_001, dtype=np.float32))
    with pytest.raises(ValueError, match="but holds 0"):
        match_tokens(tiny_model, np.zeros(0, dtype=np.float32))
    text_model = make_model(None, None, tiny_model.llm, tiny_model.tokenizer, tiny_model.template)
    with pytest.raises(UnsupportedError, match="no encoder or no adapter"):
        match_tokens(text_model, np.zeros(16_000, dtype=np.float32))


@pytest.mark.slow
def test_the_shipped_adapter_puts_words_where_they_are_said() -> None:
    from blsp.audio.read import load_audio
    from blsp.models.embedded import SMOLLM, WHISPER, part_state
    from blsp.models.load import load_model
    from blsp.models.spec import resolve

    if any(part_state(part) == "missing" for part in (WHISPER, SMOLLM)):
        pytest.skip("the weights are not on this machine: voicechat models download tiny")
    model = load_model(resolve("tiny"), device="cpu")
    found = match_tokens(model, load_audio(ASSETS / "capital_of_france.flac"))
    assert found.read_text == "what is the capital of France"
    capital = next(frame for frame in found.frames if frame.nearest[0].text == "capital")
    assert 1.0 < capital.seconds < 1.6  # where it is spoken
