"""The decoder for one conversation against transformers' own forward pass, on random weights."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from blsp.modeling.packed.fast_decoder import FastDecoder, reason_against

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
KINDS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
}


def make(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    llm: PreTrainedModel = KINDS[kind]().eval()
    with torch.no_grad():
        for name, parameter in llm.named_parameters():
            if name.endswith("bias"):  # transformers begins with zeros
                parameter.normal_()
    return llm


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_transformers(kind: str) -> None:
    llm = make(kind)
    embeds = llm.get_input_embeddings()(torch.randint(0, 320, (400,)))
    with torch.no_grad():
        expected = llm(inputs_embeds=embeds[None]).logits[0]
    decoder, read = FastDecoder(llm), 0
    for n in (5, 1, 1, 30, 1, 300, 1):  # the buffers grow on the way
        scores = decoder.read(embeds[read : read + n])
        read += n
        assert decoder.length == read
        torch.testing.assert_close(scores, expected[read - 1], rtol=1e-4, atol=1e-4)


def test_what_is_forgotten_is_read_anew() -> None:
    llm = make("qwen2")
    embeds = llm.get_input_embeddings()(torch.randint(0, 320, (60,)))
    decoder = FastDecoder(llm)
    first = decoder.read(embeds)
    decoder.crop(20)
    assert decoder.length == 20
    torch.testing.assert_close(decoder.read(embeds[20:]), first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_ways_to_go_on_are_read_side_by_side(kind: str) -> None:
    llm = make(kind)
    embeds = llm.get_input_embeddings()(torch.randint(0, 320, (14,)))
    decoder = FastDecoder(llm)
    decoder.read(embeds[:10])
    ahead = decoder.copy()
    # Two ways: 10, 11, 12 and 10, 13; where the first has read further, the second stands at the same position.
    is_seen = torch.ones(4, 14, dtype=torch.bool).tril(diagonal=10)
    is_seen[3, 11:13] = False
    states = ahead.read_apart(embeds[10:], torch.tensor([10, 11, 12, 11]), is_seen)
    assert (decoder.length, ahead.length) == (10, 14)
    for row, way in {2: [10, 11, 12], 3: [10, 13]}.items():
        alone = decoder.copy()
        expected = alone.read(embeds[way])
        with torch.inference_mode():
            torch.testing.assert_close(llm.lm_head(states[row]), expected, rtol=1e-4, atol=1e-4)
    whole = FastDecoder(llm)
    torch.testing.assert_close(decoder.read(embeds[10:]), whole.read(embeds), rtol=1e-4, atol=1e-4)


def test_a_pass_that_is_stopped_leaves_what_was_read() -> None:
    llm = make("llama")
    embeds = llm.get_input_embeddings()(torch.randint(0, 320, (20,)))
    decoder, calls = FastDecoder(llm), []
    decoder.read(embeds[:10])

    def stop_at_the_third_layer() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        decoder.read(embeds[10:], stop_at_the_third_layer)
    assert decoder.length == 10
    expected = FastDecoder(llm).read(embeds)
    torch.testing.assert_close(decoder.read(embeds[10:]), expected, rtol=1e-4, atol=1e-4)


def test_other_llms_are_refused_with_a_reason() -> None:
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2))
    reason = reason_against(gpt2)
    assert reason == "`llm` must be of a type of ['llama', 'mistral', 'qwen2'], but is gpt2 instead."
    with pytest.raises(ValueError, match="but is gpt2 instead"):
        FastDecoder(gpt2)
    sliding = Qwen2ForCausalLM(Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=1))
    assert "layers that do not" in str(reason_against(sliding))
    mistral = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))
    assert "layers that do not" in str(reason_against(mistral))
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    llama = LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=dynamic))
    assert "its rotation is 'dynamic' instead" in str(reason_against(llama))
    with torch.device("meta"):
        nowhere = LlamaForCausalLM(LlamaConfig(**SHAPE))
    assert "is on meta instead" in str(reason_against(nowhere))
