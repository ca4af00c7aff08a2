from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from blsp.audio.log_mel import extract_features
from blsp.modeling.encoder import SpeechEncoder

MakeSpeech = Callable[..., np.ndarray]


def transformers_encoder_for(frames: int, whisper: WhisperForConditionalGeneration) -> WhisperEncoder:
    """Transformers' encoder with as many positions as the speech has: the independent way to run it unpadded."""
    source = whisper.model.encoder
    config = copy.deepcopy(source.config)
    config.max_source_positions = (frames + 1) // 2
    encoder = WhisperEncoder(config).eval()
    state = source.state_dict()
    state["embed_positions.weight"] = state["embed_positions.weight"][: config.max_source_positions]
    encoder.load_state_dict(state)
    return encoder


@torch.inference_mode()
def test_unpadded_states_equal_those_of_transformers(
    tiny_whisper: WhisperForConditionalGeneration, tiny_encoder: SpeechEncoder, make_speech: MakeSpeech
) -> None:
    features, lengths = extract_features([make_speech(1.0)])
    theirs = transformers_encoder_for(100, tiny_whisper)(features).last_hidden_state
    ours, _ = tiny_encoder(features, lengths)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_padded_states_equal_those_of_transformers(
    tiny_whisper: WhisperForConditionalGeneration, make_speech: MakeSpeech
) -> None:
    encoder = SpeechEncoder(tiny_whisper.model.encoder, padded=True)
    features, lengths = extract_features([make_speech(1.0), make_speech(2.0)], padded=True)
    theirs = tiny_whisper.model.encoder(features).last_hidden_state
    ours, out_lengths = encoder(features, lengths)
    assert out_lengths.tolist() == [50, 100]
    for row, n in enumerate(out_lengths.tolist()):
        torch.testing.assert_close(ours[row, :n], theirs[row, :n], rtol=0, atol=1e-5)
        assert not ours[row, n:].any()


@torch.inference_mode()
def test_a_row_does_not_depend_on_its_neighbours(tiny_encoder: SpeechEncoder, make_speech: MakeSpeech) -> None:
    features, lengths = extract_features([make_speech(2.0), make_speech(0.77, seed=1)])
    together, out_lengths = tiny_encoder(features, lengths)
    alone, _ = tiny_encoder(features[1:, :, :77], lengths[1:])
    assert out_lengths.tolist() == [100, 39]
    torch.testing.assert_close(together[1, :39], alone[0], rtol=0, atol=1e-5)
    assert not together[1, 39:].any()


@torch.inference_mode()
def test_what_stands_in_the_padding_does_not_matter(tiny_encoder: SpeechEncoder) -> None:
    features, lengths = torch.randn(2, 80, 60), torch.tensor([60, 31])
    before, _ = tiny_encoder(features, lengths)
    features[1, :, 31:] = 100.0
    after, _ = tiny_encoder(features, lengths)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


@torch.inference_mode()
@pytest.mark.parametrize("frames", [1, 2, 3, 99, 100, 3000])
def test_lengths_are_shapes_and_the_formula(tiny_encoder: SpeechEncoder, frames: int) -> None:
    hidden_states, lengths = tiny_encoder(torch.zeros(1, 80, frames), torch.tensor([frames]))
    assert hidden_states.shape == (1, -(-frames // 2), 16)
    assert lengths.tolist() == tiny_encoder.output_lengths(torch.tensor([frames])).tolist() == [-(-frames // 2)]


def test_more_than_30_seconds_are_refused(tiny_encoder: SpeechEncoder) -> None:
    with pytest.raises(
        ValueError, match=r"^`input_features` must have at most 3000 mel frames, but has 3001 instead.$"
    ):
        tiny_encoder(torch.zeros(1, 80, 3001), torch.tensor([3001]))


def test_padded_encoder_wants_all_30_seconds(tiny_whisper: WhisperForConditionalGeneration) -> None:
    encoder = SpeechEncoder(tiny_whisper.model.encoder, padded=True)
    with pytest.raises(ValueError, match=r"^`input_features` must have exactly 3000 mel frames, but has 100 instead.$"):
        encoder(torch.zeros(1, 80, 100), torch.tensor([100]))


def test_the_encoder_is_frozen(tiny_encoder: SpeechEncoder) -> None:
    assert not any(parameter.requires_grad for parameter in tiny_encoder.parameters())
    assert not tiny_encoder.training
    assert (tiny_encoder.width, tiny_encoder.n_mels) == (16, 80)


def test_only_a_trained_encoder_drops(tiny_whisper: WhisperForConditionalGeneration) -> None:
    encoder = SpeechEncoder(copy.deepcopy(tiny_whisper.model.encoder))
    assert not any(part.training for part in encoder.train().modules())
    encoder.requires_grad_(True)
    assert all(part.training for part in encoder.train().modules())
    assert not any(part.training for part in encoder.eval().modules())
