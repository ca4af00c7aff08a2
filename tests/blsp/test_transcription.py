"""Repetition in stretches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from blsp.modeling.adapter import Adapter, AdapterConfig
from blsp.modeling.model import BlspModel
from blsp.transcription import _split, transcribe

MakeSpeech = Callable[..., np.ndarray]


def test_stretches_begin_with_words_and_are_of_like_length() -> None:
    heard = torch.arange(10.0)[:, None]
    starts = [True, True, False, True, True, False, True, True, False, True]
    assert [s[:, 0].tolist() for s in _split(heard, starts, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7, 8], [9]]
    assert [len(s) for s in _split(heard, starts, 10)] == [10]


def test_no_stretch_is_lost_or_endless_where_no_word_begins() -> None:
    heard = torch.randn(50, 3)
    stretches = _split(heard, [False] * 50, 7)
    torch.testing.assert_close(torch.cat(stretches), heard)
    assert max(map(len, stretches)) == 14


def test_a_long_utterance_is_repeated_stretch_by_stretch(tiny_model: Any, make_speech: MakeSpeech) -> None:
    torch.manual_seed(1)
    width = tiny_model.llm.config.hidden_size
    adapter = Adapter(AdapterConfig(width, width, bottleneck_dim=8, readout="ctc_expected")).eval()
    model = BlspModel(tiny_model.encoder, adapter, tiny_model.llm, tiny_model.tokenizer, tiny_model.template).eval()
    prompts: list[tuple[int, ...]] = []
    hook = model.llm.register_forward_pre_hook(
        lambda _, __, kwargs: prompts.append(tuple(kwargs["inputs_embeds"].shape)), with_kwargs=True
    )
    transcribe(model, make_speech(12.0), max_tokens=4)
    hook.remove()
    _, lengths = model.embed_speech([make_speech(12.0)])
    assert prompts[0][0] > 1  # rows of the first batch
    assert prompts[0][0] <= -(-int(lengths[0]) // 4)


def test_nothing_is_made_up_about_silence(deaf_model: Any, make_speech: MakeSpeech) -> None:
    assert transcribe(deaf_model, make_speech(1.0)) == ""
