from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from blsp.modeling.packed.cpu_choice import CpuChoice, apply
from blsp.modeling.packed.fast_decoder import FastDecoder
from blsp.modeling.packed.int8_products import row_levels
from blsp.modeling.packed.layout import GROUP
from blsp.modeling.packed.linear import N_EXACT, PackedLinear, quantize_groups
from blsp.modeling.packed.step import can_step

SHAPE = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}


def in_groups(weight: torch.Tensor) -> torch.Tensor:
    """A weight that 4 bits give exactly."""
    levels, groups = quantize_groups(weight)
    scales, offsets = (part.repeat_interleave(GROUP, dim=1) for part in groups.unbind(2))
    return levels * scales + offsets


def packed_llm(kind: str, *, bits: int = 8) -> Any:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    if kind == "llama":
        llm: Any = LlamaForCausalLM(LlamaConfig(**SHAPE, **heads))
    else:
        llm = Qwen2ForCausalLM(Qwen2Config(**SHAPE, **heads))
    llm.requires_grad_(False).eval()
    for name, module in list(llm.named_modules()):
        if isinstance(module, torch.nn.Linear):
            bias = None if module.bias is None else module.bias.detach().normal_()
            weight = 8 * module.weight.detach()  # wide enough that positions matter
            if bits == 4:
                weight = in_groups(weight)
            n_exact = N_EXACT if name == "lm_head" and bits == 4 else 0
            llm.set_submodule(name, PackedLinear.of(weight, bias, bits=bits, keep=False, n_exact=n_exact))
    return llm


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("blocked", [False, True])
def test_a_row_is_read_as_by_the_layers_themselves(kind: str, bits: int, blocked: bool) -> None:
    llm = packed_llm(kind, bits=bits)
    if blocked:
        if row_levels() is None:
            pytest.skip("torch has no blocked weights on this CPU")
        apply(llm, CpuChoice("as many" if bits == 8 else "4 bits", "blocked", "4 bits", None))
    ids = torch.randint(0, 320, (1, 30))
    embeds = llm.get_input_embeddings()(ids[0])
    decoder = FastDecoder(llm)
    assert can_step(llm)
    decoder.read(embeds[:20])
    with torch.no_grad():
        for i in range(20, 30):
            expected = llm(ids[:, : i + 1]).logits[0, -1]
            found = decoder.read(embeds[i : i + 1])
            best = expected.topk(N_EXACT // 2).indices if bits == 4 else slice(None)
            assert float((found - expected)[best].norm() / expected[best].norm()) < 0.05
    assert decoder.length == 30


def test_what_is_read_is_not_changed() -> None:
    llm = packed_llm("llama")
    embeds = llm.get_input_embeddings()(torch.tensor([5]))
    before = embeds.clone()
    FastDecoder(llm).read(embeds)
    assert torch.equal(embeds, before)


def test_a_step_that_is_stopped_leaves_what_was_read() -> None:
    llm = packed_llm("qwen2")
    embeds = llm.get_input_embeddings()(torch.arange(12))
    decoder, other, stop = FastDecoder(llm), FastDecoder(llm), threading.Event()

    def check() -> None:
        if stop.is_set():
            raise InterruptedError
        stop.set()  # after the first layer

    decoder.read(embeds[:10])
    with pytest.raises(InterruptedError):
        decoder.read(embeds[10:11], check)
    assert decoder.length == 10
    other.read(embeds[:10])
    assert torch.equal(decoder.read(embeds[11:]), other.read(embeds[11:]))


def test_other_llms_are_read_by_their_own_layers() -> None:
    llm = packed_llm("llama")
    llm.config.hidden_act = "gelu"
    assert not can_step(llm)
    dense = LlamaForCausalLM(LlamaConfig(**SHAPE, num_attention_heads=4, num_key_value_heads=2))
    assert not can_step(dense)
